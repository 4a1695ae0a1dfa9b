//! Kernels that lack what redirecting needs: one sentence names the module, and nothing is changed.
//!
//! Our own kernel has it all. So `strace` stands between the real command and the kernel: it keeps a question back and
//! writes the answer of a kernel that has no such module, as linux/net/netfilter gives it.

use std::process::Output;

use crate::harness::netns::Pod;

const NOENT: i32 = 2;
const INVAL: i32 = 22;
const OPNOTSUPP: i32 = 95;
const AFNOSUPPORT: i32 = 97;

/// The command's question number `asks` is answered by this instead, as answer number `reads`: no to one message.
fn answered(asks: usize, reads: usize, sequence: u32, errno: i32) -> Vec<String> {
    const ERROR: u16 = 2;
    const LENGTH: u32 = 36;
    let mut answer = LENGTH.to_ne_bytes().to_vec();
    answer.extend(ERROR.to_ne_bytes());
    answer.extend([0; 2]);
    answer.extend(sequence.to_ne_bytes());
    answer.extend([0; 4]);
    answer.extend((-errno).to_ne_bytes());
    // The head of what was asked, which nobody reads.
    answer.extend([0; 16]);
    let answer: String = answer.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        format!("inject=sendto:retval={LENGTH}:when={asks}"),
        format!("inject=recvfrom:retval={LENGTH}:when={reads}:poke_exit=@arg2={answer}"),
    ]
}

/// `weft redirect` of this verb on such a kernel.
fn redirect(pod: &Pod, verb: &str, lacks: &[String]) -> Output {
    let mut arguments = vec!["-qq", "-o", "/dev/null", "-e", "trace=network"];
    arguments.extend(lacks.iter().flat_map(|inject| ["-e", inject]));
    arguments.extend([env!("CARGO_BIN_EXE_weft"), "redirect", verb]);
    pod.run("strace", &arguments)
}

fn sentence(what: &str, module: &str) -> String {
    format!(
        "weft: this kernel has no {what}: load the module `{module}` on the node, or take a kernel that has it\n"
    )
}

#[track_caller]
fn assert_refused(output: &Output, said: &str) {
    let (out, error) = [&output.stdout, &output.stderr]
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .into();
    assert_eq!((error.as_str(), out.as_str()), (said, ""));
    assert_eq!(output.status.code(), Some(1));
}

/// All that redirecting could change.
fn state(pod: &Pod) -> [String; 2] {
    [
        pod.prints("nft", &["list", "ruleset"]),
        pod.prints("ip", &["address", "show", "dev", "lo"]),
    ]
}

/// The number of the last rule's message: behind the batch's begin, the table three times, the chains, the other rules.
fn last_rule(pod: &Pod) -> u32 {
    let said = pod.redirect(&["apply", "--dry-run"]);
    let chains = ["arriving:", "leaving:", "inbound:"];
    let of_chains = |line: &&str| chains.iter().any(|chain| line.starts_with(chain));
    let messages = said
        .lines()
        .filter(|line| line.starts_with("  ") || of_chains(line));
    3 + u32::try_from(messages.count()).expect("a few")
}

#[test]
fn what_a_kernel_lacks_is_named_and_nothing_is_changed() {
    let (pod, _other) = Pod::pair();
    let before = state(&pod);
    let no_socket = vec!["inject=socket:error=EPROTONOSUPPORT:when=2".to_owned()];
    let both = "nf_tables for IPv4 and IPv6 at once, which need IPv6";
    for (lacks, what, module) in [
        (no_socket, "nfnetlink", "nfnetlink"),
        (answered(2, 3, 0, OPNOTSUPP), "nf_tables", "nf_tables"),
        (answered(2, 3, 1, OPNOTSUPP), both, "ipv6"),
        (answered(2, 3, 1, AFNOSUPPORT), both, "ipv6"),
        (
            answered(2, 3, 4, NOENT),
            "address translation in nf_tables",
            "nft_chain_nat",
        ),
        (
            answered(2, 3, last_rule(&pod), NOENT),
            "redirection in nf_tables",
            "nft_redir",
        ),
    ] {
        assert_refused(&redirect(&pod, "apply", &lacks), &sentence(what, module));
        assert_eq!(state(&pod), before, "{module}");
    }
    for (verb, errno) in [("remove", OPNOTSUPP), ("show", INVAL)] {
        let refused = redirect(&pod, verb, &answered(1, 1, 0, errno));
        assert_refused(&refused, &sentence("nf_tables", "nf_tables"));
    }
}

#[test]
fn a_table_that_stands_keeps_its_address_when_another_is_refused() {
    let (pod, _other) = Pod::pair();
    pod.redirect(&["apply"]);
    let before = state(&pod);
    assert!(before[1].contains("::6/128"), "{}", before[1]);
    // The address is asked for twice, because it is there.
    let lacks = answered(3, 4, last_rule(&pod), NOENT);
    let said = sentence("redirection in nf_tables", "nft_redir");
    assert_refused(&redirect(&pod, "apply", &lacks), &said);
    assert_eq!(state(&pod), before);
}

#[test]
fn without_ipv6_in_the_kernel_there_is_ipv4_to_redirect() {
    let (pod, _other) = Pod::pair();
    let output = redirect(&pod, "apply", &answered(1, 1, 0, OPNOTSUPP));
    let said = String::from_utf8_lossy(&output.stdout);
    let end = "\nThis kernel has no IPv6 (module `ipv6`): there is only IPv4 to redirect.\n";
    assert!(output.status.success() && said.ends_with(end), "{output:?}");
    let [rules, addresses] = state(&pod);
    assert!(rules.contains("redirect to :15006"), "{rules}");
    assert!(!addresses.contains("::6/128"), "{addresses}");
}
