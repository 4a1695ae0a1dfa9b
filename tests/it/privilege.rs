//! What redirecting needs from the one who starts it: CAP_NET_ADMIN, and nothing else.
//!
//! `capsh` stands for a container's runtime: a bounding set, a user other than root, no ambient capability (Kubernetes
//! gives none), `no_new_privs` (`allowPrivilegeEscalation: false`), and then the program.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::harness::{
    netns::{Pod, SIDECAR},
    parts::program,
    wait_until,
};

/// What a container is given: its bounding set.
#[derive(Clone, Copy)]
enum Given {
    Nothing,
    NetAdmin,
}

/// The binary as an image has it: in a folder that everyone may read, with a capability on the file.
struct Image(TempDir);

impl Image {
    fn with(capability: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("our own");
        let image = Image(folder);
        // Not a link: a capability belongs to the file, whatever its names are. And not by our own hand: a process that
        // another test starts meanwhile would hold the copy open for writing, and it could not be run (ETXTBSY).
        let mut copy = Command::new("cp");
        let copied = copy
            .args([env!("CARGO_BIN_EXE_weft").as_ref(), image.weft().as_path()])
            .status();
        assert!(
            copied.is_ok_and(|status| status.success()),
            "no room for a copy"
        );
        if let Some(capability) = capability {
            let mut command = Command::new(program("setcap"));
            let status = command.arg(capability).arg(image.weft()).status();
            let status = status.expect("setcap: install it with `apt-get install libcap2-bin`");
            assert!(status.success(), "setcap needs root");
        }
        image
    }

    fn weft(&self) -> PathBuf {
        self.0.path().join("weft")
    }

    /// Weft, as a runtime starts it in a container.
    fn command(&self, given: Given, arguments: &[&str]) -> Command {
        const NET_ADMIN: u8 = 12;
        let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("Linux says it");
        let last: u8 = last.trim().parse().expect("a number");
        let (dropped, held) = match given {
            Given::Nothing => (None, "--caps="),
            Given::NetAdmin => (Some(NET_ADMIN), "--caps=cap_net_admin+ep"),
        };
        let dropped = (0..=last).filter(|number| Some(*number) != dropped);
        let dropped: Vec<String> = dropped.map(|number| number.to_string()).collect();
        let mut command = Command::new(program("capsh"));
        command
            .arg(format!("--drop={}", dropped.join(",")))
            .arg("--keep=1")
            .args([
                format!("--gid={SIDECAR}"),
                format!("--groups={SIDECAR}"),
                format!("--uid={SIDECAR}"),
            ])
            .args(["--inh=", "--noamb", held, "--no-new-privs"])
            .arg(format!("--shell={}", self.weft().display()))
            .arg("--")
            .args(arguments);
        command
    }

    fn run(&self, pod: &Pod, given: Given, arguments: &[&str]) -> Output {
        let mut command = self.command(given, arguments);
        let output = pod.inside(|| command.stdin(Stdio::null()).output());
        output.expect("capsh: install it with `apt-get install libcap2-bin`")
    }
}

/// A process that ends with its handle.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn capabilities(status: &Path) -> Option<Vec<String>> {
    let status = fs::read_to_string(status).ok()?;
    let of = |line: &&str| {
        line.starts_with("Cap") || line.starts_with("NoNewPrivs") || line.starts_with("Uid")
    };
    Some(status.lines().filter(of).map(str::to_owned).collect())
}

#[test]
fn redirecting_takes_one_capability_and_neither_root_nor_an_ambient_one() {
    let (pod, _other) = Pod::pair();
    let image = Image::with(Some("cap_net_admin+p"));
    let applied = image.run(&pod, Given::NetAdmin, &["redirect", "apply"]);
    assert!(applied.status.success(), "{}", error(&applied));
    let rules = pod.prints("nft", &["list", "ruleset"]);
    assert!(rules.contains("redirect to :15006"), "{rules}");
    let addresses = pod.prints("ip", &["-6", "address", "show", "dev", "lo"]);
    assert!(addresses.contains("::6/128"), "{addresses}");
    let shown = image.run(&pod, Given::NetAdmin, &["redirect", "show"]);
    assert_eq!(shown.stdout, applied.stdout);
    let removed = image.run(&pod, Given::NetAdmin, &["redirect", "remove"]);
    assert!(removed.status.success(), "{}", error(&removed));
    assert_eq!(pod.prints("nft", &["list", "ruleset"]), "");
}

#[test]
fn the_sidecar_of_the_same_image_has_no_capability() {
    let (pod, _other) = Pod::pair();
    let image = Image::with(Some("cap_net_admin+p"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    chown(folder.path(), Some(SIDECAR), Some(SIDECAR)).expect("we are root");
    let place = |name| folder.path().join(name);
    let (file, ready, log) = (place("weft.yaml"), place("ready"), place("log"));
    fs::write(&file, "version: weft/v1\n").expect("our own folder");
    let file = file.to_str().expect("temporary folders are ASCII");
    let mut command = image.command(Given::Nothing, &["run", "-c", file]);
    command
        .env("WEFT_READY_FILE", &ready)
        .env("XDG_STATE_HOME", folder.path())
        .stdin(Stdio::null())
        .stderr(fs::File::create(&log).expect("our own folder"));
    let mut sidecar = Running(pod.inside(|| command.spawn()).expect("capsh runs"));
    wait_until("the sidecar to be ready", || {
        let ended = sidecar.0.try_wait().expect("our own child");
        assert!(
            ended.is_none(),
            "{}",
            fs::read_to_string(&log).unwrap_or_default()
        );
        ready.exists()
    });
    let status = format!("/proc/{}/status", sidecar.0.id());
    assert_eq!(
        capabilities(Path::new(&status)).expect("it runs"),
        [
            "Uid:\t15001\t15001\t15001\t15001",
            "CapInh:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t1",
        ]
    );
}

/// Why the file has the capability as permitted only: as effective it would keep the sidecar from starting.
#[test]
fn a_file_with_an_effective_capability_does_not_start_without_it() {
    let (pod, _other) = Pod::pair();
    let version =
        |capability| Image::with(Some(capability)).run(&pod, Given::Nothing, &["version"]);
    let permitted = version("cap_net_admin+p");
    assert!(permitted.status.success(), "{}", error(&permitted));
    let effective = version("cap_net_admin+ep");
    assert!(!effective.status.success());
    assert!(
        error(&effective).contains("execve"),
        "{}",
        error(&effective)
    );
}

#[test]
fn without_the_capability_it_says_what_is_missing() {
    let (pod, _other) = Pod::pair();
    let (plain, marked) = (Image::with(None), Image::with(Some("cap_net_admin+p")));
    for (image, given) in [(&plain, Given::NetAdmin), (&marked, Given::Nothing)] {
        for verb in ["apply", "remove", "show"] {
            let refused = image.run(&pod, given, &["redirect", verb]);
            assert_eq!(refused.status.code(), Some(1));
            assert_eq!(
                error(&refused),
                "weft: this process lacks CAP_NET_ADMIN: the container must add it, and a user other than root needs it on the file as well (`setcap cap_net_admin+p weft`)\n"
            );
        }
        let dry = image.run(&pod, given, &["redirect", "apply", "--dry-run"]);
        assert!(dry.status.success(), "{}", error(&dry));
    }
    assert_eq!(pod.prints("nft", &["list", "ruleset"]), "");
}
