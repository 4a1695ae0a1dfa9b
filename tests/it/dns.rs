//! Endpoints by name: a name server of the test's own says who they are, and calls follow without a failure.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SOA},
};

use crate::harness::{
    Answer, Call, DEADLINE, Origin, RawClient, Reply, Weft, wait_for, wait_until,
};

/// What the server says to a question.
#[derive(Clone)]
enum Say {
    Addresses(Vec<IpAddr>),
    /// Over UDP only that the answer is too long.
    OverTcp(Vec<IpAddr>),
    NoSuchName,
    ServFail,
}

fn these(addresses: &[&str]) -> Say {
    Say::Addresses(addresses.iter().map(|ip| ip.parse().unwrap()).collect())
}

/// A question and who asked it.
type Question = (Vec<u8>, SocketAddr);

/// A name server on a port of loopback, UDP and TCP, and the sidecar's files that name it.
struct Names {
    facts: Arc<Facts>,
    folder: tempfile::TempDir,
    address: SocketAddr,
    udp: UdpSocket,
}

#[derive(Default)]
struct Facts {
    /// By name, with the TTL of its answers in seconds.
    said: Mutex<HashMap<String, (u32, Say)>>,
    asked: Mutex<HashMap<String, usize>>,
    /// Questions wait here while the server is held.
    held: Mutex<Option<Vec<Question>>>,
    stop: AtomicBool,
}

impl Names {
    fn start() -> Self {
        let facts = Arc::new(Facts::default());
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            // The same number may be taken for UDP: then another.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (tcp, udp);
            }
        };
        let names = Names {
            facts: Arc::clone(&facts),
            folder: tempfile::tempdir().unwrap(),
            address: tcp.local_addr().unwrap(),
            udp: udp.try_clone().unwrap(),
        };
        names.write("resolv.conf", &format!("nameserver {}\n", names.address));
        names.write("hosts", "");
        let over_tcp = Arc::clone(&facts);
        thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                if over_tcp.stop.load(Ordering::SeqCst) {
                    return;
                }
                over_tcp.serve_stream(stream);
            }
        });
        thread::spawn(move || facts.serve(&udp));
        names
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn say(&self, name: &str, ttl: u32, say: Say) {
        let mut said = self.facts.said.lock().unwrap();
        said.insert(name.to_owned(), (ttl, say));
    }

    fn asked(&self, name: &str) -> usize {
        let asked = self.facts.asked.lock().unwrap();
        asked.get(name).copied().unwrap_or_default()
    }

    /// Keeps questions until `release`.
    fn hold(&self) {
        *self.facts.held.lock().unwrap() = Some(Vec::new());
    }

    fn release(&self) {
        let held = self.facts.held.lock().unwrap().take().unwrap_or_default();
        for (question, from) in held {
            let answer = self.facts.answer(&question, false);
            self.udp.send_to(&answer, from).unwrap();
        }
    }

    /// A sidecar whose upstream `payments` is `name`; `upstream` adds keys.
    fn weft(&self, name: &str, upstream: &str) -> Weft {
        self.weft_of(&format!(
            r#"
            workers: 2
            outbound: {{ listen: "127.0.0.1:0" }}
            upstreams:
              payments:
                endpoints: {{ dns: "{name}" }}
                loadBalancing: {{ policy: roundRobin }}
                {upstream}
            "#
        ))
    }

    fn weft_of(&self, yaml: &str) -> Weft {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        Weft::start_with(
            yaml,
            &[
                ("WEFT_RESOLV_CONF", &file("resolv.conf")),
                ("WEFT_HOSTS", &file("hosts")),
            ],
        )
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.facts.stop.store(true, Ordering::SeqCst);
        // Wakes the two threads, which then see the flag.
        let _ = TcpStream::connect(self.address);
        if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
            let _ = socket.send_to(b"", self.address);
        }
    }
}

impl Facts {
    fn serve(&self, udp: &UdpSocket) {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let question = &buffer[..length];
            if let Some(held) = &mut *self.held.lock().unwrap() {
                held.push((question.to_vec(), from));
                continue;
            }
            // Who asked may be gone.
            let _ = udp.send_to(&self.answer(question, false), from);
        }
    }

    fn serve_stream(&self, mut stream: TcpStream) {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            if stream.read_exact(&mut question).is_err() {
                return;
            }
            let answer = self.answer(&question, true);
            let length = (answer.len() as u16).to_be_bytes();
            if stream.write_all(&[&length[..], &answer].concat()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, question: &[u8], tcp: bool) -> Vec<u8> {
        let request = Message::from_vec(question).unwrap();
        let query = request.queries[0].clone();
        let name = query.name().to_string().to_lowercase();
        *self.asked.lock().unwrap().entry(name.clone()).or_default() += 1;
        let said = self.said.lock().unwrap().get(&name).cloned();
        let (ttl, say) = said.unwrap_or((1, Say::NoSuchName));
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_available = true;
        response.add_query(query.clone());
        let none = |response: &mut Message| {
            let soa = SOA::new(Name::root(), Name::root(), 1, 0, 0, 0, ttl);
            response.add_authority(Record::from_rdata(Name::root(), ttl, RData::SOA(soa)));
        };
        match say {
            Say::OverTcp(_) if !tcp => response.metadata.truncation = true,
            Say::Addresses(ips) | Say::OverTcp(ips) => {
                let wanted = query.query_type() == RecordType::A;
                let ips: Vec<IpAddr> = ips
                    .into_iter()
                    .filter(|ip| ip.is_ipv4() == wanted)
                    .collect();
                if ips.is_empty() {
                    none(&mut response);
                }
                let record = |ip| Record::from_rdata(query.name().clone(), ttl, RData::from(ip));
                response.add_answers(ips.into_iter().map(record));
            }
            Say::NoSuchName => {
                response.metadata.response_code = ResponseCode::NXDomain;
                none(&mut response);
            }
            Say::ServFail => response.metadata.response_code = ResponseCode::ServFail,
        }
        response.to_vec().unwrap()
    }
}

fn get(weft: &Weft) -> Answer {
    Call::get("/").host("payments").send(&weft.outbound())
}

/// Two origins on one port: 127.0.0.1 and another address.
fn pair(other: &str) -> (Origin, Origin) {
    loop {
        let first = Origin::start();
        let address = SocketAddr::new(other.parse().unwrap(), first.port());
        // The same number may be taken there: then another.
        if TcpListener::bind(address).is_ok() {
            return (first, Origin::at(address, |_| Reply::ok("ok")));
        }
    }
}

#[test]
fn every_a_and_aaaa_record_is_an_endpoint() {
    let names = Names::start();
    let (four, six) = pair("::1");
    names.say("pay.test.", 60, these(&["127.0.0.1", "::1"]));
    let weft = names.weft(&format!("pay.test:{}", four.port()), "");
    for _ in 0..8 {
        assert_eq!(get(&weft).status, 200);
    }
    assert!(four.count() > 0 && six.count() > 0);
    weft.assert_metric("weft_endpoints{state=\"healthy\"}", 2.0);
}

#[test]
fn an_answer_holds_for_its_ttl() {
    let names = Names::start();
    let origin = Origin::start();
    names.say("short.test.", 1, these(&["127.0.0.1"]));
    names.say("long.test.", 600, these(&["127.0.0.1"]));
    let port = origin.port();
    let weft = names.weft_of(&format!(
        r#"
        outbound: {{ listen: "127.0.0.1:0" }}
        upstreams:
          short: {{ endpoints: {{ dns: "short.test:{port}" }} }}
          long: {{ endpoints: {{ dns: "long.test:{port}" }} }}
        "#
    ));
    // Lookups, not questions: one that is answered late is asked again.
    let lookups = |name: &str| format!("weft_dns_lookups_total{{upstream=\"{name}\"}}");
    weft.wait_for_metric(&lookups("short"), |count| count >= 3.0);
    assert!(names.asked("short.test.") >= 6, "A and AAAA, each time");
    assert_eq!(weft.metric(&lookups("long")), 1.0);
}

#[test]
fn new_addresses_are_used_and_old_ones_drained_without_a_failed_call() {
    let names = Names::start();
    let (old, new) = pair("127.0.0.2");
    names.say("pay.test.", 1, these(&["127.0.0.1"]));
    let weft = names.weft(&format!("pay.test:{}", old.port()), "");
    assert_eq!(get(&weft).status, 200);
    old.next([Reply::ok("from the old one").after(Duration::from_secs(3))]);
    let mut caller = RawClient::connect(&weft.outbound());
    let before = old.count();
    caller.send("GET / HTTP/1.1\r\nhost: payments\r\n\r\n");
    old.wait_for_requests(before + 1);

    let (stop, called) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = RawClient::connect(&weft.outbound());
                while !stop.load(Ordering::SeqCst) {
                    let answer = client.call(&Call::get("/").host("payments"), "");
                    assert_eq!(answer.status, 200);
                    called.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        names.say("pay.test.", 1, these(&["127.0.0.2"]));
        // Workers hear of it one by one.
        wait_until("calls to the new address alone", || {
            let (old_had, all) = (old.count(), called.load(Ordering::SeqCst));
            wait_until("more calls", || called.load(Ordering::SeqCst) > all + 50);
            old.count() == old_had && new.count() > 50
        });
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(caller.answer().text(), "from the old one");
    wait_until("the old one's connections to close", || {
        old.open_connections() == 0
    });
}

#[test]
fn a_short_name_is_looked_for_in_the_search_list() {
    let names = Names::start();
    let origin = Origin::start();
    names.write(
        "resolv.conf",
        &format!(
            "nameserver {}\nsearch nowhere.test shop.test\noptions ndots:5\n",
            names.address
        ),
    );
    names.say("pay.shop.test.", 60, these(&["127.0.0.1"]));
    let weft = names.weft(&format!("pay:{}", origin.port()), "");
    assert_eq!(get(&weft).status, 200);
}

#[test]
fn the_hosts_file_comes_first() {
    let names = Names::start();
    let origin = Origin::start();
    names.write("hosts", "127.0.0.1 pay.test\n");
    names.say("pay.test.", 60, these(&["127.0.0.9"]));
    let weft = names.weft(&format!("pay.test:{}", origin.port()), "");
    assert_eq!(get(&weft).status, 200);
    assert_eq!(names.asked("pay.test."), 0);
}

#[test]
fn an_answer_that_is_too_long_for_udp_is_fetched_over_tcp() {
    let names = Names::start();
    let origin = Origin::start();
    names.say(
        "pay.test.",
        60,
        Say::OverTcp(vec!["127.0.0.1".parse().unwrap()]),
    );
    let weft = names.weft(
        &format!("pay.test:{}", origin.port()),
        "timeouts: { connect: 10s }",
    );
    assert_eq!(get(&weft).status, 200);
}

#[test]
fn a_failing_name_server_keeps_the_last_answer() {
    let names = Names::start();
    let origin = Origin::start();
    names.say("pay.test.", 1, these(&["127.0.0.1"]));
    let weft = names.weft(&format!("pay.test:{}", origin.port()), "");
    assert_eq!(get(&weft).status, 200);
    names.say("pay.test.", 1, Say::ServFail);
    weft.wait_for_metric("weft_dns_lookups_total{result=\"failed\"}", |n| n >= 2.0);
    assert_eq!(get(&weft).status, 200);
    weft.wait_for_log("name lookups fail, the last answer stays");
}

#[test]
fn a_name_that_is_gone_three_times_has_no_endpoint() {
    let names = Names::start();
    let origin = Origin::start();
    names.say("pay.test.", 1, these(&["127.0.0.1"]));
    let weft = names.weft(&format!("pay.test:{}", origin.port()), "");
    assert_eq!(get(&weft).status, 200);
    names.say("pay.test.", 1, Say::NoSuchName);
    let none = "weft_dns_lookups_total{result=\"none\"}";
    weft.wait_for_metric(none, |times| times >= 1.0);
    let answer = get(&weft);
    if weft.metric(none) < 3.0 {
        assert_eq!(answer.status, 200, "one wrong word took the address away");
    }
    weft.wait_for_metric(none, |times| times >= 3.0);
    let answer = wait_for("the endpoint to go", || {
        Some(get(&weft)).filter(|answer| answer.status == 503)
    });
    assert_eq!(answer.reason(), Some("no_endpoint"));
    assert_eq!(
        answer.text().trim_end(),
        "no usable endpoint for payments: 0 known, 0 ejected"
    );
}

#[test]
fn calls_before_the_first_answer_wait_for_it() {
    let names = Names::start();
    let origin = Origin::start();
    names.say("pay.test.", 60, these(&["127.0.0.1"]));
    names.hold();
    let weft = names.weft(
        &format!("pay.test:{}", origin.port()),
        "timeouts: { connect: 20s }",
    );
    let mut caller = RawClient::connect(&weft.outbound());
    caller.send("GET / HTTP/1.1\r\nhost: payments\r\n\r\n");
    wait_until("the call to wait", || {
        weft.admin_get("/upstreams")[0]["pending"] == 1
    });
    names.release();
    assert_eq!(caller.answer().status, 200);
}

#[test]
fn they_wait_no_longer_than_the_connect_timeout() {
    let names = Names::start();
    names.hold();
    let weft = names.weft("pay.test:80", "timeouts: { connect: 150ms }");
    let answer = get(&weft);
    assert_eq!((answer.status, answer.reason()), (503, Some("unresolved")));
}
