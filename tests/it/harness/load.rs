//! Callers that go on POSTing while a story changes things under them, and never try a call again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use super::{Call, RawClient, wait_until};

/// Several callers, each with one POST at a time and its connection kept where the answer lets it.
pub struct Load {
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    callers: Vec<thread::JoinHandle<Vec<String>>>,
}

/// What came of all calls.
#[derive(Debug)]
pub struct Tally {
    pub answered: usize,
    /// Each call that got no answer, or another than 200, with what it got.
    pub failed: Vec<String>,
}

impl Load {
    /// `callers` call `host` at `address`; a body is told by no other call.
    pub fn start(address: &str, host: &str, callers: usize) -> Self {
        let (answered, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let caller = |number: usize| {
            let (answered, stop) = (Arc::clone(&answered), Arc::clone(&stop));
            let (address, host) = (address.to_owned(), host.to_owned());
            thread::spawn(move || {
                let mut connection = None;
                let mut failed = Vec::new();
                let mut calls = 0;
                while !stop.load(Ordering::Relaxed) {
                    let call = Call::post("/orders", format!("{number}-{calls}")).host(&host);
                    calls += 1;
                    match one(&mut connection, &address, &call) {
                        Ok(()) => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(why) => {
                            failed.push(why);
                            connection = None;
                        }
                    }
                }
                failed
            })
        };
        Load {
            callers: (0..callers).map(caller).collect(),
            answered,
            stop,
        }
    }

    /// Waits until so many more calls were answered, whatever else happens meanwhile.
    #[track_caller]
    pub fn wait_for_more(&self, count: usize) {
        let target = self.answered.load(Ordering::Relaxed) + count;
        wait_until("more calls to be answered", || {
            self.answered.load(Ordering::Relaxed) >= target
        });
    }

    /// Ends the callers, each after its call.
    pub fn finish(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self
            .callers
            .into_iter()
            .flat_map(|caller| caller.join().expect("a caller does not panic"))
            .collect();
        Tally {
            answered: self.answered.load(Ordering::Relaxed),
            failed,
        }
    }
}

fn one(kept: &mut Option<RawClient>, address: &str, call: &Call) -> Result<(), String> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => RawClient::try_connect(address).map_err(|error| format!("connect: {error}"))?,
    };
    let said = connection
        .try_send(call.bytes(address))
        .and_then(|()| connection.try_answer_to("POST"))
        .map_err(|error| format!("no answer: {error}"))?;
    if said.status != 200 {
        return Err(format!(
            "{} {:?} {}",
            said.status,
            said.reason(),
            said.text()
        ));
    }
    if said.header("connection") != Some("close") {
        *kept = Some(connection);
    }
    Ok(())
}
