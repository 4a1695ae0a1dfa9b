//! The first word of a connection, and whose it is.
//!
//! The first byte of either side decides; silence decides nothing. Where the caller is silent for 150 ms, a connection
//! to the callee may open so that it speaks first, and from then on both are listened to.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll, time::Duration};

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::{
    connection::{Connection, Order},
    tcp::Far,
};
use crate::net::{
    Stream,
    detect::{First, Kind},
};

/// How long a caller is silent, mostly, before the callee may speak.
pub const SILENCE: Duration = Duration::from_millis(150);
/// What is read of a callee that speaks first, before its bytes are relayed.
const FIRST_WORDS: usize = 256;

/// Who spoke first.
pub enum Word {
    Caller(Kind),
    /// The callee said this, or ended where it is empty.
    Callee(Bytes),
}

/// A connection whose first word has come.
pub struct Heard {
    pub word: Word,
    /// What was read of the caller.
    pub read: Bytes,
    /// The connection to the callee, where one was opened.
    pub far: Option<Far>,
}

/// Waits for the first word; none where the caller left before, or the connection's timers or orders closed it.
///
/// `open` is asked once, and only after `silence`. Where it opens nothing the caller alone is listened to.
pub async fn hear(
    connection: &Rc<Connection>,
    near: &mut Stream,
    mut first: First,
    silence: Duration,
    open: impl AsyncFnOnce() -> Option<Far>,
) -> Option<Heard> {
    let _timed = connection.timed();
    let listen = async {
        let told = match tokio::time::timeout(silence, first.kind(near)).await {
            Ok(kind) => (kind.map(Word::Caller), None),
            Err(_) => match open().await {
                None => (first.kind(near).await.map(Word::Caller), None),
                Some(far) => either(connection, near, &mut first, far).await,
            },
        };
        let (word, far) = told;
        Some(Heard {
            word: word?,
            read: first.bytes(),
            far,
        })
    };
    unless_closed(connection, listen).await.flatten()
}

async fn either(
    connection: &Connection,
    near: &mut Stream,
    first: &mut First,
    mut far: Far,
) -> (Option<Word>, Option<Far>) {
    // Who waits for the other to speak may do so for as long as it likes.
    connection.relays(true);
    let mut words = [0; FIRST_WORDS];
    let word = tokio::select! {
        biased;
        kind = first.kind(near) => kind.map(Word::Caller),
        said = far.stream.read(&mut words) => {
            let said = said.unwrap_or(0);
            Some(Word::Callee(Bytes::copy_from_slice(&words[..said])))
        }
    };
    connection.relays(false);
    (word, Some(far))
}

/// What comes of `work`, unless the connection is told to finish or close before.
async fn unless_closed<T>(connection: &Connection, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| match connection.order(cx) {
        Order::Serve | Order::Rest => work.as_mut().poll(cx).map(Some),
        Order::Finish | Order::Close(_) => Poll::Ready(None),
    })
    .await
}
