//! Many expectations checked at a time: who connects to what, and what must come of it.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use lb_lab::{Options, Proto, Shares};

use crate::cluster::Cluster;

/// Connections of a row of which several backends may answer: with three of them, each misses one with a
/// probability of (2/3)^40.
pub(crate) const MANY: u32 = 40;
/// Connections of other rows.
const FEW: u32 = 4;
/// How long an answer may take on a busy machine. TCP sends again meanwhile; UDP does not, and so shows whether
/// a first packet is lost.
const ANSWER: Duration = Duration::from_secs(3);
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(400);
/// Rows that are checked at a time: most of them wait.
const PARALLEL: usize = 4;

/// What must come of a row's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expect<'a> {
    /// All are answered; all of these answer, and nobody else.
    From(&'a [&'a str]),
    /// All are refused at once.
    Refused,
    /// Nothing is heard.
    Silent,
    /// Nobody answers; how that is seen is the network's business.
    Unserved,
}

/// The rows of a test.
pub(crate) struct Rows<'a> {
    cluster: &'a Cluster,
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    from: &'a str,
    proto: Proto,
    to: SocketAddr,
    what: String,
    expect: Expect<'a>,
}

impl<'a> Rows<'a> {
    /// No rows yet.
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        Self {
            cluster,
            rows: Vec::new(),
        }
    }

    /// One more, over one protocol.
    pub(crate) fn row(
        &mut self,
        from: &'a str,
        proto: Proto,
        to: SocketAddr,
        what: impl fmt::Debug,
        expect: Expect<'a>,
    ) {
        let what = format!("{what:?}");
        self.rows.push(Row {
            from,
            proto,
            to,
            what,
            expect,
        });
    }

    /// One more, over TCP and over UDP.
    pub(crate) fn both(
        &mut self,
        from: &'a str,
        to: SocketAddr,
        what: impl fmt::Debug + Copy,
        expect: Expect<'a>,
    ) {
        for proto in Proto::BOTH {
            self.row(from, proto, to, what, expect);
        }
    }

    /// Tries all rows and says which are not as they must be.
    #[track_caller]
    pub(crate) fn check(self) {
        let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            while let Some(row) = self.rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(failure) = row.check(self.cluster) {
                    failures
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(failure);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..PARALLEL.min(self.rows.len()) {
                scope.spawn(work);
            }
        });
        let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert!(
            failures.is_empty(),
            "{} of {} rows failed:\n{}\n{}",
            failures.len(),
            self.rows.len(),
            failures.join("\n"),
            self.cluster.diagnosis()
        );
    }
}

impl Row<'_> {
    fn check(&self, cluster: &Cluster) -> Result<(), String> {
        let (options, n) = match self.expect {
            Expect::From(names) if names.len() > 1 => (Options::within(ANSWER), MANY),
            Expect::From(_) | Expect::Refused => (Options::within(ANSWER), FEW),
            Expect::Silent | Expect::Unserved => (Options::within(SILENCE), FEW),
        };
        let place = cluster.lab.at(self.from).expect("the place is there");
        let shares = place
            .probe_with(self.proto, self.to, n, &options)
            .expect("the probe runs");
        judge(&shares, self.expect).map_err(|why| {
            let Self {
                from,
                proto,
                to,
                what,
                ..
            } = self;
            format!("{from} to {what} {to} {proto:?}: {why}: {shares}")
        })
    }
}

fn judge(shares: &Shares, expect: Expect<'_>) -> Result<(), String> {
    let good = match expect {
        Expect::From(names) => {
            shares.all_answered() && shares.names() == names.iter().copied().collect::<BTreeSet<_>>()
        }
        Expect::Refused => shares.all_refused(),
        Expect::Silent => shares.all_silent(),
        Expect::Unserved => shares.answers() == 0,
    };
    if good {
        Ok(())
    } else {
        Err(format!("not {expect:?}"))
    }
}
