//! One scenario from its lab to its verdict.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_lab::{Place, wait_for};

use crate::{
    agent::{Agent, Start},
    api::Pool,
    arrivals::Watch,
    books::{self, Balance, Books},
    drive::Driver,
    feed::Feed,
    format::{AgentState, Case, Client, ClientKind, Flow, Http, IpFamily, Metric, Outcome, State, Step},
    http::{self, Reply},
    judge,
    layout::{FABRIC, Listener, OUTSIDE, PEERS, SELF},
    manifests,
    run::Options,
    site::Site,
    slots::Slot,
};

/// How long the agent's servers may take after its maps, and a route after its Service.
const SOON: Duration = Duration::from_secs(8);
/// Where the agent lists its metrics.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10249);

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The step, and the flow, check or metric.
    pub at: String,
    /// What should be.
    pub expected: String,
    /// What is.
    pub seen: String,
}

/// Runs a scenario: what is wrong, and what the agent's hooks received, if it came to an end.
pub(crate) fn run(
    case: &Case,
    options: &Options,
    pool: &Pool,
    slot: &Slot<'_>,
) -> (Vec<Miss>, Option<Balance>) {
    let mut misses = Vec::new();
    let mut at = "the lab".to_owned();
    match play(case, (options, pool), slot, &mut misses, &mut at) {
        Ok(balance) => {
            let wrong = balance.lines().into_iter().filter(|line| !line.ok);
            misses.extend(wrong.map(|line| Miss {
                at: format!("the books of {}", line.of),
                expected: line.expected,
                seen: line.seen,
            }));
            (misses, Some(balance))
        }
        Err(error) => {
            misses.push(Miss {
                at,
                expected: "it can be tried".into(),
                seen: format!("{error:#}"),
            });
            (misses, None)
        }
    }
}

fn play(
    case: &Case,
    (options, pool): (&Options, &Pool),
    slot: &Slot<'_>,
    misses: &mut Vec<Miss>,
    at: &mut String,
) -> Result<Balance> {
    let _counting = books::count_runs()?;
    let site = Site::build(case, &options.tag, options.hook)?;
    let steps = case.steps();
    let stalls = case.then.iter().any(|then| then.agent_state.is_some());
    let switch = stalls.then(|| site.lab.folder().join("fail-writes"));
    let marker = |number| manifests::marker(number, case.ip_family == IpFamily::IPv6);
    let first = &steps.first().context("a scenario has a first step")?.state;
    let mut feed = Feed::start(case, &site, (options.objects, pool), first, &marker(0))?;
    "the agent".clone_into(at);
    let start = Start {
        program: &options.agent,
        node: &case.self_node()?.name,
        source: feed.source(),
        proxy: &case.proxy,
        hook: options.hook,
        switch: switch.as_deref(),
    };
    let agent = Agent::start(&site.lab, &start)?;
    let mut scenario = Scenario {
        driver: Driver::new(case),
        context: judge::Context::default(),
        counted: BTreeMap::new(),
        books: None,
        devices: site.devices(),
        site: &site,
        agent: &agent,
        slot,
        switch,
        stalled: false,
        number: 0,
    };
    for (number, step) in steps.iter().enumerate() {
        *at = format!("step {:?}", step.name);
        scenario.number = number;
        let apply = |state: &State| match number {
            0 => Ok(()),
            _ => feed.apply(state, &marker(number)),
        };
        scenario.enter(step, apply)?;
        scenario.try_all(step, misses)?;
    }
    "the books".clone_into(at);
    let books = scenario.books.context("a scenario has a first step")?;
    books.balance(|| agent.counters_document(&site.lab))
}

/// A scenario under way.
struct Scenario<'a> {
    site: &'a Site,
    agent: &'a Agent,
    slot: &'a Slot<'a>,
    driver: Driver<'a>,
    context: judge::Context,
    /// The agent's counters as last read.
    counted: BTreeMap<String, u64>,
    /// The agent's books, once it serves.
    books: Option<Books>,
    devices: Vec<String>,
    switch: Option<PathBuf>,
    stalled: bool,
    number: usize,
}

impl Scenario<'_> {
    /// Brings the cluster into the step's state, and waits until the agent has followed.
    fn enter(&mut self, step: &Step<'_>, apply: impl FnOnce(&State) -> Result<()>) -> Result<()> {
        if let (Some(state), Some(switch)) = (step.agent_state, &self.switch) {
            self.stalled = state == AgentState::Stalled;
            if self.stalled {
                fs::write(switch, "").context("cannot make the agent's writes fail")?;
            } else {
                fs::remove_file(switch).context("the agent's writes did not fail")?;
            }
        }
        apply(&step.state)?;
        if self.stalled {
            self.agent.wait_until_behind()?;
        } else {
            self.settle()?;
        }
        self.context.own = self.site.own_addresses()?;
        self.counted = self.agent.counters(&self.site.lab)?;
        if self.books.is_none() {
            self.books = Some(Books::open(&self.agent.pins())?);
        }
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        self.agent.settle(self.number, &self.devices)
    }

    fn try_all(&mut self, step: &Step<'_>, misses: &mut Vec<Miss>) -> Result<()> {
        for flow in step.flows {
            let name = || format!("step {:?}, flow {:?}", step.name, flow.name);
            let miss = self.flow(flow).with_context(name)?;
            misses.extend(miss.map(|(expected, seen)| Miss {
                at: name(),
                expected,
                seen,
            }));
        }
        for check in step.http {
            if let Err(seen) = self.http(check)? {
                misses.push(Miss {
                    at: format!("step {:?}, http {:?}", step.name, check.name),
                    expected: format!("{:?}", check.expect),
                    seen,
                });
            }
        }
        for metric in step.metrics {
            if let Err(seen) = self.metric(metric)? {
                misses.push(Miss {
                    at: format!("step {:?}, metric {:?} {:?}", step.name, metric.id, metric.labels),
                    expected: metric.value.to_string(),
                    seen,
                });
            }
        }
        Ok(())
    }

    /// Tries a flow. If it does not do what it should: what is expected, and what was seen.
    fn flow(&mut self, flow: &Flow) -> Result<Option<(String, String)>> {
        let place = self.place(&flow.client)?;
        let borrowed = self.borrow_address(&place, &flow.client)?;
        let dst = flow.dst.socket();
        let accepted = |outcome| flow.expect.outcome == outcome || flow.expect.also_ok.contains(&outcome);
        let passed = Listener {
            place: SELF.into(),
            proto: flow.dst.proto,
            at: dst,
        };
        let here = self.site.layout.place(dst.ip()) == SELF;
        let listening = match accepted(Outcome::Pass) && here && flow.continues.is_none() {
            true => Some(self.site.listen(&passed)?),
            false => None,
        };
        let served = matches!(flow.expect.outcome, Outcome::Forward | Outcome::Reject);
        if place.name() == SELF && served && !here && borrowed.is_none() {
            self.wait_for_route(&place, dst.ip());
        }
        let watch = match flow.expect.outcome {
            Outcome::Drop => Some(Watch::start(&self.site.lab, &self.site.layout, flow.dst.proto)?),
            _ => None,
        };
        let mut seen = self.driver.drive(&place, flow, self.slot)?;
        seen.arrived = watch
            .map(|watch| watch.arrived(flow.dst.proto))
            .unwrap_or_default();
        drop(listening);
        if let Some(ip) = borrowed {
            place.remove_address(ip, "lo")?;
            self.settle()?;
        }
        let verdict = judge::flow(flow, &seen, &self.context);
        self.context.earlier.insert(flow.name.clone(), seen.answered());
        let counted = self.counted()?;
        Ok(verdict
            .err()
            .map(|why| (expectation(flow), format!("{why}: {seen}; counted: {counted}"))))
    }

    /// What the data path has counted since it was last asked.
    fn counted(&mut self) -> Result<String> {
        let now = self.agent.counters(&self.site.lab)?;
        let mut news: Vec<_> = now
            .iter()
            .map(|(name, count)| {
                (
                    count - self.counted.get(name).copied().unwrap_or_default().min(*count),
                    name,
                )
            })
            .filter(|(count, _)| *count > 0)
            .collect();
        news.sort_by(|a, b| b.cmp(a));
        let news: Vec<_> = news
            .iter()
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        self.counted = now;
        Ok(if news.is_empty() {
            "nothing".into()
        } else {
            news.join(", ")
        })
    }

    /// Where a client is.
    fn place(&self, client: &Client) -> Result<Place> {
        let name = match (client.kind, self.site.layout.place(client.ip.0)) {
            // An address that a process of the node has only for this flow.
            (ClientKind::Node, name) if name == FABRIC || name == PEERS && client.node.is_none() => {
                SELF.into()
            }
            (ClientKind::External, name) if name == FABRIC => OUTSIDE.into(),
            (_, name) => name,
        };
        self.site.lab.at(&name).cloned()
    }

    /// A process of `self` that has another address than the node's gets it for the flow.
    fn borrow_address(&self, place: &Place, client: &Client) -> Result<Option<IpAddr>> {
        let ip = client.ip.0;
        if place.name() != SELF || ip.is_loopback() || self.context.own.contains(&ip) {
            return Ok(None);
        }
        place.add_address(ip, "lo")?;
        self.settle()?;
        Ok(Some(ip))
    }

    /// The agent routes Services' addresses into `lb0` beside its maps; only the node's own processes depend on it.
    fn wait_for_route(&self, place: &Place, ip: IpAddr) {
        let routed = || {
            let route = place.output(&["ip", "route", "get", &ip.to_string()]);
            route.is_ok_and(|route| route.contains("dev lb0"))
        };
        // Without the route the flow itself will show it.
        let _ = wait_for(SOON / 4, "a route", routed);
    }

    fn http(&self, check: &Http) -> Result<Result<(), String>> {
        let place = self.place(&check.client)?;
        let to = SocketAddr::new(check.get.ip.0, check.get.port);
        let ask = || http::get(&place, Some(check.client.ip.0), to, &check.get.path);
        soon(ask, |reply| http::judge(&check.expect, reply))
    }

    fn metric(&self, metric: &Metric) -> Result<Result<(), String>> {
        let place = self.site.own()?;
        let ask = || http::get(place, None, METRICS, "/metrics");
        soon(ask, |reply| {
            let text = http::body(reply.clone()).map_err(|error| format!("{error:#}"))?;
            http::judge_metric(metric, &text)
        })
    }
}

/// Asks until the answer is right; the last verdict.
fn soon(
    ask: impl Fn() -> Result<Reply>,
    judge: impl Fn(&Reply) -> Result<(), String>,
) -> Result<Result<(), String>> {
    let mut last = Ok(Err("never asked".into()));
    let _ = wait_for(SOON, "the right answer", || {
        last = ask().map(|reply| judge(&reply));
        matches!(last, Ok(Ok(())) | Err(_))
    });
    last
}

/// A flow's expectation in words.
fn expectation(flow: &Flow) -> String {
    let expect = &flow.expect;
    let mut text = format!(
        "{} {} to {} {}: {}",
        format!("{:?}", flow.client.kind).to_lowercase(),
        flow.client.ip.0,
        flow.dst.socket(),
        flow.dst.proto,
        expect.outcome
    );
    if !expect.backends.is_empty() {
        let backends: Vec<_> = expect.backends.iter().map(ToString::to_string).collect();
        text += &format!(" to {}", backends.join(", "));
    }
    if let Some(source) = &expect.source {
        text += &format!(", source {source:?}");
    }
    if expect.sticky {
        text += ", all to one";
    }
    if let Some(name) = &expect.same_backend_as {
        text += &format!(", the one of {name:?}");
    }
    if let Some(min) = expect.min_distinct_backends {
        text += &format!(", at least {min} of them");
    }
    if !expect.also_ok.is_empty() {
        text += &format!(" (or {:?})", expect.also_ok);
    }
    text
}
