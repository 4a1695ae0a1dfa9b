//! The table in the kernel: written and removed in one batch, which takes effect whole or not at all; and read back.

use rustix::{io::Errno, net::netlink};

use super::{
    Refused, expression,
    message::{ACK, APPEND, Attributes, CREATE, DUMP, Messages, attribute, number, text},
    rule::{Found, Rule, Verdict},
    socket::{No, Socket},
    spelling,
    table::{self, Chain, Hook, Table},
};

#[derive(Debug)]
pub(super) struct Kernel(Socket);

/// What a message of a batch does, to tell what a refusal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    Begin,
    Table,
    Removal,
    Chain,
    Rule { redirects: bool },
}

/// Messages and what each of them does.
#[derive(Debug, Default)]
struct Batch {
    messages: Messages,
    steps: Vec<Step>,
}

// linux/netfilter/nfnetlink.h and nf_tables.h.
const BEGIN: u16 = 16;
const END: u16 = 17;
const NF_TABLES: u16 = 10;
const NEW_TABLE: u16 = NF_TABLES << 8;
const DELETE_TABLE: u16 = NF_TABLES << 8 | 2;
const NEW_CHAIN: u16 = NF_TABLES << 8 | 3;
const LIST_CHAINS: u16 = NF_TABLES << 8 | 4;
const NEW_RULE: u16 = NF_TABLES << 8 | 6;
const LIST_RULES: u16 = NF_TABLES << 8 | 7;

/// The address family that stands for IPv4 and IPv6 at once.
const INET: u8 = 1;
const FAMILY_HEADER: usize = 4;
/// Where destinations are translated, as everyone else does.
const PRIORITY: i32 = -100;
const POLICY_ACCEPT: u32 = 1;

mod attr {
    pub(super) const TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
}

impl Kernel {
    pub fn open() -> Result<Self, Refused> {
        let socket = Socket::open(Some(netlink::NETFILTER));
        socket.map(Kernel).map_err(|why| meaning(Step::Open, why))
    }

    /// Puts the table in the place of whatever had its name.
    pub fn replace(&self, table: &Table<Rule>) -> Result<(), Refused> {
        let mut batch = Batch::begin();
        // Made first, so that removing it cannot fail.
        batch.push(Step::Table, NEW_TABLE, CREATE, &named());
        batch.push(Step::Removal, DELETE_TABLE, 0, &named());
        batch.push(Step::Table, NEW_TABLE, CREATE, &named());
        for chain in &table.chains {
            batch.push(Step::Chain, NEW_CHAIN, CREATE, &chain_attributes(chain));
        }
        let rules = table
            .chains
            .iter()
            .flat_map(|chain| chain.rules.iter().map(move |rule| (chain, rule)));
        let mut rules = rules.peekable();
        while let Some((chain, rule)) = rules.next() {
            let redirects = matches!(rule.verdict, Verdict::Redirect { .. });
            let acknowledge = if rules.peek().is_none() { ACK } else { 0 };
            let attributes = named().text(attr::RULE_CHAIN, &chain.name).nest(
                attr::RULE_EXPRESSIONS,
                expression::encode(&spelling::steps(rule)),
            );
            let flags = CREATE | APPEND | acknowledge;
            batch.push(Step::Rule { redirects }, NEW_RULE, flags, &attributes);
        }
        self.tell(batch)
    }

    /// False where there was none.
    pub fn remove(&self) -> Result<bool, Refused> {
        let mut batch = Batch::begin();
        batch.push(Step::Removal, DELETE_TABLE, ACK, &named());
        match self.tell(batch) {
            Ok(()) => Ok(true),
            Err(Refused::Absent) => Ok(false),
            Err(refused) => Err(refused),
        }
    }

    /// What stands there now; a hook that we do not use makes a chain of its own kind unreadable.
    pub fn read(&self) -> Result<Table<Found>, Refused> {
        let chains = self.list(LIST_CHAINS, |body| {
            let name = text(body, attr::CHAIN_NAME)?.to_owned();
            let hook = match attribute(body, attr::CHAIN_HOOK) {
                None => None,
                Some(hook) => Some(hook_of(hook)?),
            };
            let rules = Vec::new();
            Some(Chain { name, hook, rules })
        })?;
        let rules = self.list(LIST_RULES, |body| {
            let chain = text(body, attr::RULE_CHAIN)?.to_owned();
            let list = attribute(body, attr::RULE_EXPRESSIONS).unwrap_or_default();
            let rule = expression::decode(list).and_then(|steps| spelling::rule(&steps));
            Some((chain, rule.map_or(Found::Foreign, Found::Ours)))
        })?;
        let mut table = Table { chains };
        for (name, rule) in rules {
            let chain = table.chains.iter_mut().find(|chain| chain.name == name);
            // A chain that came between the two listings has no place yet.
            if let Some(chain) = chain {
                chain.rules.push(rule);
            }
        }
        match table.chains.is_empty() {
            true => Err(Refused::Absent),
            false => Ok(table),
        }
    }

    fn tell(&self, batch: Batch) -> Result<(), Refused> {
        let batch = batch.end();
        self.0.tell(&batch.messages).map_err(|no| batch.meaning(no))
    }

    /// What of all tables' chains or rules belongs to ours.
    fn list<T>(&self, what: u16, read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, Refused> {
        let mut question = Messages::default();
        question.push(what, DUMP, &[INET, 0, 0, 0], &Attributes::default());
        let found = self.0.list(&question, |message| {
            let body = message.body.get(FAMILY_HEADER..).unwrap_or_default();
            let ours =
                message.body.first() == Some(&INET) && text(body, attr::TABLE) == Some(table::NAME);
            ours.then(|| read(body))
        });
        let found = found.map_err(|no| meaning(Step::Begin, no.why))?;
        let found: Option<Vec<T>> = found.into_iter().flatten().collect();
        found.ok_or(Refused::Garbled(
            "the table `weft` is not as weft writes it; `weft redirect apply` replaces it",
        ))
    }
}

impl Batch {
    fn begin() -> Self {
        let mut batch = Batch::default();
        batch.mark(BEGIN, Step::Begin);
        batch
    }

    fn push(&mut self, step: Step, kind: u16, flags: u16, attributes: &Attributes) {
        self.messages
            .push(kind, flags, &[INET, 0, 0, 0], attributes);
        self.steps.push(step);
    }

    fn end(mut self) -> Self {
        self.mark(END, Step::Begin);
        self
    }

    fn mark(&mut self, kind: u16, step: Step) {
        let [high, low] = NF_TABLES.to_be_bytes();
        self.messages
            .push(kind, 0, &[0, 0, high, low], &Attributes::default());
        self.steps.push(step);
    }

    fn meaning(&self, no: No) -> Refused {
        let step = no
            .sequence
            .and_then(|at| self.steps.get(usize::try_from(at).ok()?));
        meaning(step.copied().unwrap_or(Step::Begin), no.why)
    }
}

/// What it means that the kernel refuses a step with this error.
fn meaning(step: Step, why: Errno) -> Refused {
    let missing = |what, module| Refused::Missing { what, module };
    match (step, why) {
        (_, Errno::PERM | Errno::ACCESS) => Refused::Privilege,
        (Step::Open, Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => {
            missing("nfnetlink", "nfnetlink")
        }
        (Step::Begin, Errno::OPNOTSUPP | Errno::INVAL) => missing("nf_tables", "nf_tables"),
        // Both families at once need both: a kernel built without IPv6 has no tables of family `inet` at all.
        (Step::Table, Errno::OPNOTSUPP | Errno::AFNOSUPPORT) => missing(
            "nf_tables for IPv4 and IPv6 at once, which need IPv6",
            "ipv6",
        ),
        (Step::Removal, Errno::NOENT) => Refused::Absent,
        (Step::Chain, Errno::NOENT | Errno::OPNOTSUPP) => {
            missing("address translation in nf_tables", "nft_chain_nat")
        }
        (Step::Rule { redirects: true }, Errno::NOENT | Errno::OPNOTSUPP) => {
            missing("redirection in nf_tables", "nft_redir")
        }
        _ => Refused::Kernel {
            doing: match step {
                Step::Open => "open a netlink socket",
                Step::Begin => "begin a change of nf_tables",
                Step::Table => "make the table `weft`",
                Step::Removal => "remove the table `weft`",
                Step::Chain => "make a chain of the table `weft`",
                Step::Rule { .. } => "take a rule of the table `weft`",
            },
            cause: why.into(),
        },
    }
}

fn named() -> Attributes {
    Attributes::default().text(attr::TABLE, table::NAME)
}

fn chain_attributes(chain: &Chain<Rule>) -> Attributes {
    let attributes = named().text(attr::CHAIN_NAME, &chain.name);
    let Some(hook) = chain.hook else {
        return attributes;
    };
    let hook = Attributes::default()
        .number(attr::HOOK_NUMBER, hook_number(hook))
        .number(attr::HOOK_PRIORITY, PRIORITY.cast_unsigned());
    attributes
        .nest(attr::CHAIN_HOOK, hook)
        .text(attr::CHAIN_TYPE, "nat")
        .number(attr::CHAIN_POLICY, POLICY_ACCEPT)
}

const fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
    }
}

fn hook_of(bytes: &[u8]) -> Option<Hook> {
    let number = number(bytes, attr::HOOK_NUMBER)?;
    [Hook::Prerouting, Hook::Output]
        .into_iter()
        .find(|hook| hook_number(*hook) == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kernel says when this is missing: from nfnetlink_rcv_batch, nf_tables_newtable,
    /// nf_tables_chain_type_lookup and nft_expr_type_get.
    #[test]
    fn what_a_kernel_lacks_is_named_in_one_sentence() {
        for (step, why, module) in [
            (Step::Open, Errno::PROTONOSUPPORT, "nfnetlink"),
            (Step::Begin, Errno::OPNOTSUPP, "nf_tables"),
            (Step::Table, Errno::OPNOTSUPP, "ipv6"),
            (Step::Table, Errno::AFNOSUPPORT, "ipv6"),
            (Step::Chain, Errno::NOENT, "nft_chain_nat"),
            (Step::Rule { redirects: true }, Errno::NOENT, "nft_redir"),
        ] {
            let refused = meaning(step, why).to_string();
            assert!(
                refused.contains(&format!("`{module}`")),
                "{step:?}: {refused}"
            );
            assert!(!refused.contains(". "), "one sentence: {refused}");
        }
    }

    #[test]
    fn a_refusal_is_told_by_the_message_that_it_meant() {
        let mut batch = Batch::begin();
        batch.push(Step::Table, NEW_TABLE, CREATE, &named());
        batch.push(Step::Rule { redirects: true }, NEW_RULE, CREATE, &named());
        let no = |sequence, why| batch.meaning(No { sequence, why }).to_string();
        assert!(no(Some(2), Errno::NOENT).contains("`nft_redir`"));
        assert!(no(Some(1), Errno::OPNOTSUPP).contains("`ipv6`"));
        assert!(no(None, Errno::PERM).contains("CAP_NET_ADMIN"));
        assert!(no(Some(99), Errno::NOMEM).contains("begin a change"));
    }
}
