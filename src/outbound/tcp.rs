//! A connection's path from the application where it may be no HTTP: where it goes, what it speaks, bytes both ways.

mod destination;

use std::{future::pending, rc::Rc};

use tokio::net::TcpStream;

use super::{Local, Stack};
use crate::{
    http::{
        Connection, Heard, Opening, SILENCE, Word, hear,
        tcp::{Detected, Passage},
    },
    net::{
        Early, Stream,
        detect::{Caller, First, Kind, leaves_by_a_proxy},
    },
};
pub use destination::Meters;
use destination::{Destination, Speech};

impl Stack {
    /// What the application's connection turns out to be, if that is HTTP; all else is relayed here to its end.
    pub(super) async fn tell(
        &self,
        tcp: TcpStream,
        connection: &Rc<Connection>,
    ) -> Option<(Stream, Opening)> {
        let local = self.local();
        match local.destination(connection) {
            Ok(destination) => match destination.speech(connection.original()) {
                Speech::Http => Some((tcp.into(), Opening::Unknown)),
                Speech::Bytes => {
                    connection.meter().detected(Detected::Opaque);
                    Box::pin(local.relay_opaque(destination, connection, tcp.into())).await;
                    None
                }
                Speech::Any => Box::pin(local.listen(destination, tcp.into(), connection)).await,
            },
            Err(fault) => {
                let meter = &local.plan().tcp.none;
                Passage::new(connection, Detected::None, meter).fail(tcp.into(), fault);
                None
            }
        }
    }
}

impl Local {
    async fn relay_opaque(&self, to: Destination, connection: &Rc<Connection>, near: Stream) {
        let passage = Passage::new(connection, Detected::Opaque, to.meter(self.plan()));
        match self.open(&to).await {
            Ok(far) => passage.relay(near, far, Early::default(), pending()).await,
            Err(failed) => failed.tell(passage, near),
        }
    }

    async fn listen(
        &self,
        to: Destination,
        mut near: Stream,
        connection: &Rc<Connection>,
    ) -> Option<(Stream, Opening)> {
        // Only a redirected connection has somewhere to go that is not its own to say.
        let caller = match connection.original() {
            Some(_) => Caller::Own,
            None => Caller::Stranger,
        };
        let open = async || match &to {
            Destination::Unsaid => None,
            to => self.open(to).await.ok(),
        };
        let Some(heard) = hear(connection, &mut near, First::of(caller), SILENCE, open).await
        else {
            connection.meter().detected(Detected::None);
            return None;
        };
        let Heard { word, read, far } = heard;
        connection.meter().detected(Detected::from(&word));
        match &word {
            Word::Caller(Kind::Http1)
                if connection.original().is_none() || !leaves_by_a_proxy(&read) =>
            {
                return Some((near, Opening::Http1(read)));
            }
            Word::Caller(Kind::Http2) => return Some((near, Opening::Http2(read))),
            // Bytes that cannot say where they go are answered by HTTP's rules.
            Word::Caller(Kind::Postgres | Kind::Other) if matches!(to, Destination::Unsaid) => {
                return Some((near, Opening::Http1(read)));
            }
            _ => {}
        }
        self.relay_heard(to, connection, near, Heard { word, read, far })
            .await;
        None
    }

    async fn relay_heard(
        &self,
        mut to: Destination,
        connection: &Rc<Connection>,
        near: Stream,
        heard: Heard,
    ) {
        let detected = Detected::from(&heard.word);
        let mut far = heard.far;
        let mut early = Early {
            of_near: heard.read,
            ..Early::default()
        };
        let mut server_name = None;
        match heard.word {
            Word::Callee(words) => early.of_far = words,
            Word::Caller(Kind::Tls(hello)) => {
                server_name = hello.server_name;
                if let Some(named) = self.by_server_name(&to, server_name.as_deref()) {
                    (to, far) = (named, None);
                }
            }
            Word::Caller(_) => {}
        }
        let mut passage = Passage::new(connection, detected, to.meter(self.plan()));
        passage.server_name = server_name;
        let opened = match far {
            Some(far) => Ok(far),
            None => self.open(&to).await,
        };
        match opened {
            Ok(far) => passage.relay(near, far, early, pending()).await,
            Err(failed) => failed.tell(passage, near),
        }
    }
}
