//! Where our identity comes from: it is taken over however it comes, refused loudly where it is no use, and never shown.

use std::{fs, os::unix::fs::symlink, path::PathBuf, thread, time::Duration};

use tempfile::TempDir;

use crate::harness::{
    Authority, Call, IdentityFolder, Leaf, Wanted, Weft, parts::WorkloadApi, wait_for, wait_until,
};

const LEFT: &str = "weft_identity_expiry_seconds";
const ACCEPTED: &str = "weft_identity_rotations_total{result=\"accepted\"}";
const REFUSED: &str = "weft_identity_rotations_total{result=\"refused\"}";

/// A certificate of `web` that lasts so many minutes: by that it is told from others.
fn minutes(authority: &Authority, minutes: u64) -> Leaf {
    let wanted = Wanted::default().uri(&authority.id("web"));
    authority.sign(wanted.lasting(Duration::from_secs(60 * minutes)))
}

fn keyed(mut leaf: Leaf, key: &str) -> Leaf {
    key.clone_into(&mut leaf.key);
    leaf
}

#[track_caller]
fn wait_for_minutes(weft: &Weft, minutes: u64) {
    let at_most = 60.0 * minutes as f64;
    weft.wait_for_metric(LEFT, |left| left <= at_most && left > at_most - 60.0);
}

fn sidecar(identity: &str) -> Weft {
    Weft::start(&format!("identity: {identity}"))
}

/// Files without any link.
struct Plain(TempDir);

impl Plain {
    fn new(leaf: &Leaf, roots: &str) -> Self {
        let plain = Plain(tempfile::tempdir().unwrap());
        plain.write(leaf);
        fs::write(plain.path("ca.crt"), roots).unwrap();
        plain
    }

    fn write(&self, leaf: &Leaf) {
        fs::write(self.path("tls.crt"), &leaf.certificate).unwrap();
        fs::write(self.path("tls.key"), &leaf.key).unwrap();
    }

    /// As `mv` does it: each file in one step, the two of them in two.
    fn rename(&self, leaf: &Leaf) {
        for (name, text) in [("tls.key", &leaf.key), ("tls.crt", &leaf.certificate)] {
            fs::write(self.path("draft"), text).unwrap();
            fs::rename(self.path("draft"), self.path(name)).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn yaml(&self) -> String {
        let path = |name| self.path(name).display().to_string();
        format!(
            "{{ files: {{ certificate: {}, key: {}, roots: {} }} }}",
            path("tls.crt"),
            path("tls.key"),
            path("ca.crt")
        )
    }
}

#[test]
fn a_new_certificate_is_taken_over_however_it_comes() {
    let authority = Authority::new("cluster.local");
    let volume = IdentityFolder::new(&minutes(&authority, 10), authority.root());
    let weft = sidecar(&volume.yaml());
    wait_for_minutes(&weft, 10);
    volume.replace(&minutes(&authority, 20), authority.root());
    wait_for_minutes(&weft, 20);

    let plain = Plain::new(&minutes(&authority, 10), authority.root());
    let weft = sidecar(&plain.yaml());
    wait_for_minutes(&weft, 10);
    plain.write(&minutes(&authority, 30));
    wait_for_minutes(&weft, 30);
    plain.rename(&minutes(&authority, 40));
    wait_for_minutes(&weft, 40);
    weft.assert_metric(ACCEPTED, 3.0);
    let line = weft.wait_for_log("identity taken over");
    assert!(line.contains(&authority.id("web")), "{line}");
}

/// Nothing tells of that: the files are compared every ten seconds.
#[test]
fn a_file_behind_a_link_is_noticed_too() {
    let authority = Authority::new("cluster.local");
    let (here, there) = (
        tempfile::tempdir().unwrap(),
        Plain::new(&minutes(&authority, 10), authority.root()),
    );
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(there.path(name), here.path().join(name)).unwrap();
    }
    let here = Plain(here);
    let weft = sidecar(&here.yaml());
    wait_for_minutes(&weft, 10);
    there.write(&minutes(&authority, 20));
    wait_for_minutes(&weft, 20);
}

#[test]
fn what_is_no_use_is_refused_loudly_and_the_last_good_goes_on() {
    let authority = Authority::new("cluster.local");
    let folder = IdentityFolder::new(&minutes(&authority, 10), authority.root());
    let weft = sidecar(&folder.yaml());
    let id = authority.id("web");
    let sign = |wanted: Wanted| authority.sign(wanted);
    let with_key = |key: &str| keyed(minutes(&authority, 20), key);
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let refusals = [
        (
            with_key(&authority.leaf("web").key),
            authority.root(),
            "not the one of the certificate",
        ),
        (
            sign(Wanted::default().uri(&id).expired()),
            authority.root(),
            "ended at",
        ),
        (
            sign(Wanted::default().uri(&id).not_yet()),
            authority.root(),
            "does not count before",
        ),
        (minutes(&authority, 21), "", "is empty"),
        (minutes(&authority, 22), "no roots here", "is empty"),
        (with_key(encrypted), authority.root(), "is encrypted"),
        (
            with_key("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"),
            authority.root(),
            "not supported",
        ),
        (with_key(""), authority.root(), "no private key"),
        (
            sign(Wanted::default().name("web.test")),
            authority.root(),
            "no URI",
        ),
        (
            sign(Wanted::default().uri(&id).uri("spiffe://cluster.local/b")),
            authority.root(),
            "2 URIs",
        ),
    ];
    for (at, (leaf, roots, words)) in refusals.iter().enumerate() {
        folder.replace(leaf, roots);
        weft.assert_metric(REFUSED, (at + 1) as f64);
        let line = weft.wait_for_log(words);
        assert!(
            line.contains("ERROR") && line.contains("the last good identity goes on"),
            "{line}"
        );
        wait_for_minutes(&weft, 10);
        assert!(weft.is_ready());
    }
    folder.replace(&minutes(&authority, 30), authority.root());
    wait_for_minutes(&weft, 30);
}

#[test]
fn nobody_is_ready_before_there_is_an_identity() {
    let authority = Authority::new("cluster.local");
    let folder = IdentityFolder::empty();
    let mut weft = Weft::folder(&format!("identity: {}", folder.yaml()));
    let ready = weft.path().join("ready.json");
    thread::scope(|scope| {
        scope.spawn(|| {
            let said = wait_for("it to listen", || fs::read(&ready).ok());
            let listeners: serde_json::Value = serde_json::from_slice(&said).unwrap();
            let metrics = listeners["metrics"].as_str().unwrap().to_owned();
            let answer = Call::get("/ready").send(&metrics);
            assert_eq!(answer.status, 503);
            assert!(answer.text().contains("identity"), "{}", answer.text());
            folder.replace(&minutes(&authority, 10), authority.root());
        });
        weft.launch().unwrap();
    });
    wait_for_minutes(&weft, 10);
}

#[test]
fn nobody_is_ready_with_an_identity_that_has_ended() {
    let authority = Authority::new("cluster.local");
    let brief = Wanted::default()
        .uri(&authority.id("web"))
        .lasting(Duration::from_secs(4));
    let folder = IdentityFolder::new(&authority.sign(brief), authority.root());
    // On a busy machine it may have ended before it is up: then it was never ready.
    let weft = Weft::start_unready(&format!("identity: {}", folder.yaml()));
    wait_until("the identity's end", || !weft.is_ready());
    weft.wait_for_metric(LEFT, |left| left <= 0.0);
    folder.replace(&minutes(&authority, 10), authority.root());
    wait_until("the new identity", || weft.is_ready());
}

#[test]
fn a_workload_api_is_followed_through_renewals_and_a_new_root() {
    let api = WorkloadApi::start(8, &["web"]);
    let weft = sidecar(&api.yaml("web"));
    let line = weft.wait_for_log("identity taken over");
    assert!(line.contains(&api.id("web")), "{line}");
    weft.wait_for_metric(ACCEPTED, |count| count >= 3.0);
    api.rotate_the_root();
    api.wait_until_the_old_root_is_gone();
    let renewed = weft.metric(ACCEPTED);
    weft.wait_for_metric(ACCEPTED, |count| count > renewed + 1.0);
    api.revoke_all();
    weft.wait_for_metric("weft_identity_crl_update_seconds", |left| left > 0.0);
    assert!(weft.is_ready());
    assert_eq!(weft.metric(REFUSED), 0.0, "{}", weft.logs());
}

#[test]
fn an_agent_that_went_away_is_found_again() {
    let mut api = WorkloadApi::start(600, &["web"]);
    let weft = sidecar(&api.yaml("web"));
    api.stop();
    weft.wait_for_metric(
        "weft_identity_rotations_total{result=\"unavailable\"}",
        |count| count >= 2.0,
    );
    assert!(weft.is_ready(), "what it has counts on");
    // Each wait is twice the one before.
    for wait in [100, 200, 400, 800] {
        weft.wait_for_log(&format!("\"again_ms\":{wait}"));
    }
    api.start_again();
    weft.assert_metric(ACCEPTED, 2.0);
}

#[test]
fn nothing_of_a_key_is_shown() {
    let authority = Authority::new("cluster.local");
    let leaf = minutes(&authority, 10);
    let folder = IdentityFolder::new(&leaf, authority.root());
    let weft = sidecar(&folder.yaml());
    let mut keys = vec![leaf.key];
    // Also where it is the key that is wrong.
    let torn = authority.leaf("web");
    let cut = torn.key.replacen("-----END", "-----", 1);
    let torn = keyed(torn, &cut);
    keys.push(torn.key.clone());
    folder.replace(&torn, authority.root());
    weft.assert_metric(REFUSED, 1.0);
    let mut swapped = authority.leaf("web");
    swapped.certificate = authority.leaf("web").key;
    keys.push(swapped.certificate.clone());
    folder.replace(&swapped, authority.root());
    weft.assert_metric(REFUSED, 2.0);
    let mut said = vec![weft.logs(), weft.metrics()];
    for page in [
        "/",
        "/config",
        "/listeners",
        "/upstreams",
        "/outbox",
        "/deadletters",
        "/ready",
        "/live",
    ] {
        said.push(Call::get(page).send(&weft.admin()).text());
    }
    for command in [
        &["check", "-c", "weft.yaml"][..],
        &["config", "--effective", "-c", "weft.yaml"],
    ] {
        let output = weft.run(command);
        said.push(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
    }
    for key in keys {
        for line in key.lines().filter(|line| !line.starts_with("-----")) {
            let part = &line[..line.len().min(16)];
            assert!(
                !said.iter().any(|said| said.contains(part)),
                "{part} of a key is shown"
            );
        }
    }
    let filter = format!("/proc/{}/coredump_filter", weft.pid().as_raw_nonzero());
    let filter = fs::read_to_string(filter).unwrap();
    assert_eq!(
        filter.trim(),
        "00000010",
        "a core dump would have the key in it"
    );
}
