//! Lookups over real sockets, against a name server that says what a test tells it to.
//!
//! TTLs of 0 and a lower bound of a few milliseconds make "a TTL later" soon.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SOA},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch::Receiver,
};

use super::*;

/// What the server says to one question.
#[derive(Clone)]
enum Say {
    Addresses(Vec<IpAddr>),
    /// `Addresses`, but over UDP only that the answer is too long.
    OverTcp(Vec<IpAddr>),
    NoSuchName,
    NoRecord,
    ServFail,
    Nothing,
}

fn addresses(of: &[&str]) -> Say {
    Say::Addresses(of.iter().map(|ip| ip.parse().unwrap()).collect())
}

#[derive(Clone, Default)]
struct Zone(Arc<Mutex<Facts>>);

#[derive(Default)]
struct Facts {
    said: HashMap<(String, RecordType), Say>,
    asked: HashMap<String, usize>,
}

impl Zone {
    /// What `name` is from now on; the other family has no record.
    fn set(&self, name: &str, v4: Say, v6: Say) {
        let said = &mut self.0.lock().unwrap().said;
        said.insert((name.to_owned(), RecordType::A), v4);
        said.insert((name.to_owned(), RecordType::AAAA), v6);
    }

    fn set_both(&self, name: &str, say: Say) {
        self.set(name, say.clone(), say);
    }

    fn asked(&self, name: &str) -> usize {
        self.0
            .lock()
            .unwrap()
            .asked
            .get(name)
            .copied()
            .unwrap_or_default()
    }

    fn answer(&self, request: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let request = Message::from_vec(request).unwrap();
        let query = request.queries[0].clone();
        let name = query.name().to_string().to_lowercase();
        let facts = &mut *self.0.lock().unwrap();
        *facts.asked.entry(name.clone()).or_default() += 1;
        let say = facts
            .said
            .get(&(name, query.query_type()))
            .cloned()
            .unwrap_or(Say::NoSuchName);
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_available = true;
        response.add_query(query.clone());
        let mut add = |ips: Vec<IpAddr>| {
            response.add_answers(
                ips.into_iter()
                    .map(|ip| Record::from_rdata(query.name().clone(), 0, RData::from(ip))),
            );
        };
        match say {
            Say::Addresses(ips) => add(ips),
            Say::OverTcp(ips) if tcp => add(ips),
            Say::OverTcp(_) => response.metadata.truncation = true,
            Say::NoSuchName | Say::NoRecord => {
                if matches!(say, Say::NoSuchName) {
                    response.metadata.response_code = ResponseCode::NXDomain;
                }
                let soa = SOA::new(Name::root(), Name::root(), 1, 0, 0, 0, 0);
                response.add_authority(Record::from_rdata(Name::root(), 0, RData::SOA(soa)));
            }
            Say::ServFail => response.metadata.response_code = ResponseCode::ServFail,
            Say::Nothing => return None,
        }
        Some(response.to_vec().unwrap())
    }

    /// Answers on one port of loopback, UDP and TCP, until the runtime ends.
    async fn serve(&self) -> SocketAddr {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // The same number may be taken for UDP: then another.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let zone = self.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                if let Some(answer) = zone.answer(&buffer[..length], false) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        let zone = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = tcp.accept().await.unwrap();
                tokio::spawn(zone.clone().serve_stream(stream));
            }
        });
        address
    }

    async fn serve_stream(self, mut stream: TcpStream) {
        while let Ok(length) = stream.read_u16().await {
            let mut request = vec![0; length.into()];
            stream.read_exact(&mut request).await.unwrap();
            if let Some(answer) = self.answer(&request, true) {
                stream.write_u16(answer.len() as u16).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        }
    }
}

/// A machine whose files name our server.
struct Machine {
    directory: tempfile::TempDir,
    registry: prometheus::Registry,
    shared: Shared,
}

impl Machine {
    fn new(resolv_conf: &str, hosts: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| -> PathBuf { directory.path().join(name) };
        fs::write(file("resolv.conf"), resolv_conf).unwrap();
        fs::write(file("hosts"), hosts).unwrap();
        let files = Files {
            resolv_conf: file("resolv.conf"),
            hosts: file("hosts"),
        };
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let mut shared = Shared::new(Arc::new(System::new(files).unwrap()), metrics);
        shared.bounds.least = Duration::from_millis(20);
        shared.bounds.most_without = Duration::from_millis(100);
        Machine {
            directory,
            registry,
            shared,
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn watch(&self, name: &str) -> Watched {
        watch(
            &Source::Dns(name.parse().unwrap()),
            "payments",
            &self.shared,
        )
    }

    fn lookups(&self, result: &str) -> u64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == "weft_dns_lookups_total")
            .unwrap();
        let counts = family.get_metric().iter().filter(|metric| {
            metric
                .get_label()
                .iter()
                .any(|label| label.value() == result)
        });
        counts
            .map(|metric| metric.get_counter().get_value() as u64)
            .sum()
    }

    /// Waits until so many lookups came to `result`.
    async fn looked_up(&self, result: &str, times: u64) {
        within(async {
            while self.lookups(result) < times {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// A wait that ends the test rather than last for ever.
async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("it should have come by now")
}

async fn become_these(endpoints: &mut Receiver<Endpoints>, expected: &[&str]) {
    let expected: Vec<SocketAddr> = expected
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
    let there = |endpoints: &Endpoints| endpoints.is_known() && *endpoints.addresses == *expected;
    let told = within(endpoints.wait_for(there)).await.is_ok();
    assert!(told, "the task has ended");
}

async fn machine(zone: &Zone) -> Machine {
    Machine::new(&format!("nameserver {}\n", zone.serve().await), "")
}

#[tokio::test]
async fn both_families_are_found_sorted_and_told_once() {
    let zone = Zone::default();
    zone.set(
        "pay.shop.",
        addresses(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]),
        addresses(&["fd00::1"]),
    );
    let machine = machine(&zone).await;
    let watched = machine.watch("pay.shop:8080");
    become_these(
        &mut watched.endpoints(),
        &["10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080"],
    )
    .await;
}

#[tokio::test]
async fn an_answer_holds_for_its_ttl_and_then_changes() {
    let zone = Zone::default();
    zone.set("pay.shop.", addresses(&["10.0.0.1"]), Say::NoRecord);
    let machine = machine(&zone).await;
    let watched = machine.watch("pay.shop:80");
    let mut endpoints = watched.endpoints();
    become_these(&mut endpoints, &["10.0.0.1:80"]).await;
    zone.set(
        "pay.shop.",
        addresses(&["10.0.0.2", "10.0.0.3"]),
        Say::NoRecord,
    );
    become_these(&mut endpoints, &["10.0.0.2:80", "10.0.0.3:80"]).await;
}

#[tokio::test]
async fn an_unchanged_answer_wakes_nobody() {
    let zone = Zone::default();
    zone.set(
        "pay.shop.",
        addresses(&["10.0.0.1", "10.0.0.2"]),
        Say::NoRecord,
    );
    let machine = machine(&zone).await;
    let watched = machine.watch("pay.shop:80");
    let mut endpoints = watched.endpoints();
    become_these(&mut endpoints, &["10.0.0.1:80", "10.0.0.2:80"]).await;
    zone.set(
        "pay.shop.",
        addresses(&["10.0.0.2", "10.0.0.1"]),
        Say::NoRecord,
    );
    machine
        .looked_up("found", machine.lookups("found") + 3)
        .await;
    assert!(!endpoints.has_changed().unwrap());
}

#[tokio::test]
async fn a_failing_server_keeps_the_last_answer() {
    let zone = Zone::default();
    zone.set(
        "pay.shop.",
        addresses(&["10.0.0.1"]),
        addresses(&["fd00::1"]),
    );
    let machine = machine(&zone).await;
    let watched = machine.watch("pay.shop:80");
    let mut endpoints = watched.endpoints();
    become_these(&mut endpoints, &["10.0.0.1:80", "[fd00::1]:80"]).await;
    zone.set_both("pay.shop.", Say::ServFail);
    machine.looked_up("failed", 4).await;
    assert!(!endpoints.has_changed().unwrap());
    zone.set("pay.shop.", addresses(&["10.0.0.9"]), Say::NoRecord);
    become_these(&mut endpoints, &["10.0.0.9:80"]).await;
}

#[tokio::test]
async fn half_a_failure_keeps_its_half() {
    let zone = Zone::default();
    zone.set(
        "pay.shop.",
        addresses(&["10.0.0.1"]),
        addresses(&["fd00::1"]),
    );
    let machine = machine(&zone).await;
    let watched = machine.watch("pay.shop:80");
    let mut endpoints = watched.endpoints();
    become_these(&mut endpoints, &["10.0.0.1:80", "[fd00::1]:80"]).await;
    zone.set("pay.shop.", addresses(&["10.0.0.2"]), Say::ServFail);
    become_these(&mut endpoints, &["10.0.0.2:80", "[fd00::1]:80"]).await;
}

#[tokio::test]
async fn a_server_silent_about_one_family_delays_the_other_little() {
    let zone = Zone::default();
    zone.set("pay.shop.", addresses(&["10.0.0.1"]), Say::Nothing);
    let machine = machine(&zone).await;
    let watched = machine.watch("pay.shop:80");
    // The server's own timeout is 5 s an attempt, and there are two.
    let mut endpoints = watched.endpoints();
    let soon = tokio::time::timeout(
        Duration::from_secs(4),
        become_these(&mut endpoints, &["10.0.0.1:80"]),
    );
    soon.await.expect("the half that is known");
}

#[tokio::test]
async fn a_name_that_is_gone_empties_at_the_third_answer() {
    for say in [Say::NoSuchName, Say::NoRecord] {
        let zone = Zone::default();
        zone.set("pay.shop.", addresses(&["10.0.0.1"]), Say::NoRecord);
        let machine = machine(&zone).await;
        let watched = machine.watch("pay.shop:80");
        let mut endpoints = watched.endpoints();
        become_these(&mut endpoints, &["10.0.0.1:80"]).await;
        zone.set_both("pay.shop.", say);
        become_these(&mut endpoints, &[]).await;
        assert!(machine.lookups("none") >= 3);
    }
}

#[tokio::test]
async fn before_the_first_answer_the_endpoints_are_waited_for() {
    let zone = Zone::default();
    zone.set_both("pay.shop.", Say::ServFail);
    let machine = machine(&zone).await;
    let watched = machine.watch("pay.shop:80");
    let mut endpoints = watched.endpoints();
    assert_eq!(endpoints.borrow().state, State::Waiting(None));
    let why = |endpoints: &Endpoints| matches!(&endpoints.state, State::Waiting(Some(_)));
    within(endpoints.wait_for(why)).await.unwrap();
    zone.set("pay.shop.", addresses(&["10.0.0.1"]), Say::NoRecord);
    become_these(&mut endpoints, &["10.0.0.1:80"]).await;
}

#[tokio::test]
async fn a_name_that_never_was_is_known_to_be_empty() {
    let zone = Zone::default();
    let machine = machine(&zone).await;
    let watched = machine.watch("no.shop:80");
    become_these(&mut watched.endpoints(), &[]).await;
}

#[tokio::test]
async fn an_answer_too_long_for_udp_comes_over_tcp() {
    let zone = Zone::default();
    let ips: Vec<IpAddr> = (1..=200).map(|n| IpAddr::from([10, 0, 0, n])).collect();
    zone.set("pay.shop.", Say::OverTcp(ips), Say::NoRecord);
    let machine = machine(&zone).await;
    let watched = machine.watch("pay.shop:80");
    let mut endpoints = watched.endpoints();
    within(endpoints.wait_for(|endpoints| endpoints.addresses.len() == 200))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_short_name_is_sought_in_the_search_list() {
    let zone = Zone::default();
    zone.set("pay.shop.local.", addresses(&["10.0.0.1"]), Say::NoRecord);
    zone.set("pay.", addresses(&["10.0.0.66"]), Say::NoRecord);
    let server = zone.serve().await;
    let machine = Machine::new(
        &format!("nameserver {server}\nsearch eu.local shop.local\noptions ndots:2\n"),
        "",
    );
    let watched = machine.watch("pay:80");
    become_these(&mut watched.endpoints(), &["10.0.0.1:80"]).await;
    assert!(zone.asked("pay.eu.local.") > 0);
    assert_eq!(zone.asked("pay."), 0);
}

#[tokio::test]
async fn a_failure_of_the_name_in_use_is_not_filled_by_another_name() {
    let zone = Zone::default();
    zone.set("pay.shop.local.", addresses(&["10.0.0.1"]), Say::NoRecord);
    zone.set("pay.", addresses(&["10.0.0.66"]), Say::NoRecord);
    let server = zone.serve().await;
    let machine = Machine::new(&format!("nameserver {server}\nsearch shop.local\n"), "");
    let watched = machine.watch("pay:80");
    let mut endpoints = watched.endpoints();
    become_these(&mut endpoints, &["10.0.0.1:80"]).await;
    zone.set_both("pay.shop.local.", Say::ServFail);
    machine.looked_up("failed", 2).await;
    assert!(!endpoints.has_changed().unwrap());
}

#[tokio::test]
async fn a_failure_earlier_in_the_search_list_is_passed_over() {
    let zone = Zone::default();
    zone.set_both("pay.broken.local.", Say::ServFail);
    zone.set("pay.shop.local.", addresses(&["10.0.0.1"]), Say::NoRecord);
    let server = zone.serve().await;
    let machine = Machine::new(
        &format!("nameserver {server}\nsearch broken.local shop.local\n"),
        "",
    );
    let watched = machine.watch("pay:80");
    become_these(&mut watched.endpoints(), &["10.0.0.1:80"]).await;
}

#[tokio::test]
async fn the_hosts_file_comes_first() {
    let zone = Zone::default();
    zone.set_both("pay.shop.", addresses(&["10.0.0.66"]));
    let server = zone.serve().await;
    let machine = Machine::new(
        &format!("nameserver {server}\n"),
        "127.0.0.9 pay.shop\n::9 other pay.shop\n",
    );
    let watched = machine.watch("Pay.Shop:80");
    become_these(&mut watched.endpoints(), &["127.0.0.9:80", "[::9]:80"]).await;
    assert_eq!(zone.asked("pay.shop."), 0);
}

#[tokio::test]
async fn changed_files_are_read_again() {
    let (before, after) = (Zone::default(), Zone::default());
    before.set("pay.shop.", addresses(&["10.0.0.1"]), Say::NoRecord);
    after.set("pay.shop.", addresses(&["10.0.0.2"]), Say::NoRecord);
    let machine = machine(&before).await;
    let watched = machine.watch("pay.shop:80");
    let mut endpoints = watched.endpoints();
    become_these(&mut endpoints, &["10.0.0.1:80"]).await;
    machine.write(
        "resolv.conf",
        &format!("# moved\nnameserver {}\n", after.serve().await),
    );
    become_these(&mut endpoints, &["10.0.0.2:80"]).await;
    machine.write("hosts", "10.0.0.3 pay.shop\n");
    become_these(&mut endpoints, &["10.0.0.3:80"]).await;
}

#[tokio::test]
async fn a_second_server_is_asked_where_the_first_is_gone() {
    let zone = Zone::default();
    zone.set("pay.shop.", addresses(&["10.0.0.1"]), Say::NoRecord);
    let server = zone.serve().await;
    // Bound and dropped: nobody is there.
    let gone = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let machine = Machine::new(&format!("nameserver {gone}\nnameserver {server}\n"), "");
    let watched = machine.watch("pay.shop:80");
    become_these(&mut watched.endpoints(), &["10.0.0.1:80"]).await;
}

#[tokio::test]
async fn stopping_ends_the_lookups() {
    let zone = Zone::default();
    zone.set("pay.shop.", addresses(&["10.0.0.1"]), Say::NoRecord);
    let machine = machine(&zone).await;
    let watched = machine.watch("pay.shop:80");
    let mut endpoints = watched.endpoints();
    become_these(&mut endpoints, &["10.0.0.1:80"]).await;
    watched.stop().await;
    assert!(
        within(endpoints.changed()).await.is_err(),
        "nobody is left to tell"
    );
    assert_eq!(
        endpoints.borrow().addresses.len(),
        1,
        "what was known stays readable"
    );
}

#[tokio::test]
async fn addresses_need_no_lookup() {
    let machine = Machine::new("", "");
    let fixed = Source::Static(
        ["10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"]
            .map(|text| text.parse().unwrap())
            .to_vec(),
    );
    let watched = watch(&fixed, "payments", &machine.shared);
    become_these(&mut watched.endpoints(), &["10.0.0.1:80", "10.0.0.2:80"]).await;
    let literal = machine.watch("[::1]:80");
    become_these(&mut literal.endpoints(), &["[::1]:80"]).await;
}
