//! How a handshake can fail.

use std::io;

use rustls::{AlertDescription, Error};

use super::{trust::Untrusted, verify};

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It answered with other bytes, or closed before a byte.
    #[error("the peer speaks no TLS")]
    NoTls,
    /// We do not believe it.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// It does not want us.
    #[error("the peer refuses the handshake with the alert `{}`", alert_words(*.0))]
    Refused(AlertDescription),
    /// It keeps no rules.
    #[error("the handshake failed: {0}")]
    Protocol(#[source] Error),
    /// The connection broke.
    #[error("the connection ended during the handshake: {0}")]
    Gone(#[source] io::Error),
}

impl HandshakeError {
    pub(super) fn from_io(error: io::Error) -> Self {
        match tls_error(&error) {
            Some(tls) => Self::from_tls(tls),
            None => HandshakeError::Gone(error),
        }
    }

    pub(super) fn from_tls(tls: &Error) -> Self {
        if let Some(why) = verify::refused(tls) {
            return HandshakeError::Untrusted(why);
        }
        match tls {
            Error::AlertReceived(alert) => HandshakeError::Refused(*alert),
            other => HandshakeError::Protocol(other.clone()),
        }
    }

    /// One word, for a metric.
    pub const fn word(&self) -> &'static str {
        match self {
            HandshakeError::NoTls => "no_tls",
            HandshakeError::Untrusted(why) => why.word(),
            HandshakeError::Refused(_) => "refused",
            HandshakeError::Protocol(_) => "protocol",
            HandshakeError::Gone(_) => "gone",
        }
    }
}

pub(super) fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// An alert as RFC 8446 names it.
fn alert_words(alert: AlertDescription) -> String {
    let name = format!("{alert:?}");
    let mut words = String::with_capacity(name.len() + 4);
    let mut before_lower = false;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && before_lower {
            words.push('_');
        }
        before_lower = letter.is_ascii_lowercase();
        words.push(letter.to_ascii_lowercase());
    }
    words
}
