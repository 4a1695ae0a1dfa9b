//! A connection's life between requests, over real sockets and a clock that the test moves.

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    task::{JoinHandle, spawn_local, yield_now},
};

use super::*;
use crate::{
    http::{Desk, Door, Facts, Metrics, Timers, tick::Tick},
    net,
    telemetry::{self, AccessLog, Direction},
    units::Time,
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Answers every request with `ok`.
struct Ok200;

impl Handler for Ok200 {
    async fn handle(
        self: Rc<Self>,
        connection: Rc<Connection>,
        _: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        connection.began();
        connection.ended();
        Ok(Response::new(Body::whole(Bytes::from_static(b"ok"))))
    }
}

struct Served {
    client: TcpStream,
    tick: Rc<Tick>,
    handler: Rc<Ok200>,
    task: JoinHandle<()>,
}

impl Served {
    async fn new(idle: Time) -> Self {
        let registry = telemetry::Registry::new("test").unwrap();
        let metrics = Metrics::new(registry.inner()).unwrap();
        let (access, _) = AccessLog::start(
            telemetry::settings::AccessLog::None,
            &registry,
            std::io::sink(),
        )
        .unwrap();
        let tick = Tick::new();
        let desk = Desk::new(tick.clone(), access, &metrics);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (stream, peer) = listener.accept().await.unwrap();
        let local = stream.local_addr().unwrap();
        let accepted = net::Accepted {
            stream,
            peer,
            local,
        };
        let timers = Timers {
            idle,
            ..Timers::outbound()
        };
        let meter = metrics.listener(Direction::Outbound);
        let connection = Connection::new(Facts::of(&accepted, &Door::Main), timers, &desk, &meter);
        let handler = Rc::new(Ok200);
        let answering = handler.clone();
        let task = spawn_local(async move {
            let server = Server::default();
            server
                .serve(
                    accepted.stream.into(),
                    Opening::Unknown,
                    connection,
                    answering,
                )
                .await;
        });
        Served {
            client: client.unwrap(),
            tick,
            handler,
            task,
        }
    }

    async fn ask(&mut self) {
        self.client.write_all(REQUEST).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            let read = self.client.read_buf(&mut answer).await.unwrap();
            assert_ne!(
                read,
                0,
                "closed after {:?}",
                String::from_utf8_lossy(&answer)
            );
        }
    }

    async fn ticks(&self, count: usize) {
        for _ in 0..count {
            self.tick.advance();
            yield_now().await;
        }
    }

    /// Hyper's connection holds a handler; one at rest holds none but its task's own.
    fn rests(&self) -> bool {
        Rc::strong_count(&self.handler) == 2
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    runtime.unwrap().block_on(test);
}

#[test]
fn an_idle_connection_rests_and_goes_on() {
    run(async {
        let mut served = Served::new(Time::seconds(60)).await;
        for _ in 0..3 {
            served.ask().await;
            assert!(!served.rests());
            served.ticks(8).await;
            assert!(served.rests());
        }
        drop(served.client);
        served.task.await.unwrap();
    });
}

#[test]
fn a_connection_at_rest_is_closed_when_its_time_is_over() {
    run(async {
        let mut served = Served::new(Time::seconds(2)).await;
        served.ask().await;
        served.ticks(8).await;
        assert!(served.rests());
        served.ticks(15).await;
        served.task.await.unwrap();
    });
}

#[test]
fn half_a_head_is_no_rest() {
    run(async {
        let mut served = Served::new(Time::seconds(60)).await;
        served.ask().await;
        served.client.write_all(&REQUEST[..9]).await.unwrap();
        served.ticks(20).await;
        assert!(!served.rests());
    });
}

#[test]
fn requests_between_ticks_keep_a_connection_open() {
    run(async {
        let mut served = Served::new(Time::seconds(1)).await;
        for _ in 0..40 {
            served.ask().await;
            served.ticks(1).await;
        }
        assert!(!served.rests());
    });
}
