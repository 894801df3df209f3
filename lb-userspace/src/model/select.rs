//! Which endpoints new connections may use on this node: one pure function, which is the specification.

/// An endpoint of one Service port and family, as far as the choice depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// It runs on this node.
    pub on_this_node: bool,
    /// It wants new connections.
    pub ready: bool,
    /// It can answer.
    pub serving: bool,
    /// It is shutting down.
    pub terminating: bool,
    /// Its node is another one, known to be not ready.
    pub node_lost: bool,
    /// Zones whose clients should use it.
    pub for_zones: &'a [String],
    /// Nodes whose clients should use it.
    pub for_nodes: &'a [String],
}

/// Which scopes the Service port's policies make use of here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scopes {
    /// The internal policy is Cluster, or the port is exposed (also under policy Local: the pods and the
    /// processes of this node reach all endpoints, as if they had gone out and come back).
    pub cluster: bool,
    /// The internal policy is Local, or the port is exposed with the external policy Local.
    pub local: bool,
}

/// The choice: one flag for each candidate, in their order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    /// Selected for the Cluster scope.
    pub in_cluster: Vec<bool>,
    /// Selected for the Local scope.
    pub in_local: Vec<bool>,
    /// Some endpoint could serve, here or elsewhere: an empty scope is silent. Otherwise it refuses.
    pub endpoints_exist: bool,
}

/// Chooses among `candidates` for a node of this `name` and `zone`.
///
/// A candidate is *usable* if it is ready. It is a *last resort* if it is not ready, but serving and
/// terminating, and its node is not lost. Any other is never used: not one that is neither ready nor
/// terminating, and not the terminating pods of a dead node, which outlive it in the API for as long as
/// nobody confirms their end.
///
/// The two scopes fall back independently:
///
/// * **Cluster**: the usable candidates, narrowed by hints; if there are none, all last resorts, whatever
///   their hints.
/// * **Local**: the usable candidates on this node; if there are none, the last resorts on this node, even
///   while others are usable elsewhere. Hints never apply.
///
/// Hints narrow all or nothing, and only usable candidates are asked:
///
/// 1. if each names nodes, and at least one names this node: those that name it;
/// 2. else if each names zones, and at least one names this node's zone: those that name it;
/// 3. else all. A node without a zone, a candidate without a hint, or no candidate for our zone means that
///    hints are not used. They never empty the scope.
///
/// Endpoints *exist* if any candidate on any node is usable or a last resort.
///
/// A scope that is not in play selects nobody, which keeps what no packet can use out of the maps.
#[must_use]
pub fn select(candidates: &[Candidate<'_>], name: &str, zone: Option<&str>, scopes: Scopes) -> Selection {
    let usable = |c: &Candidate<'_>| c.ready;
    let last_resort = |c: &Candidate<'_>| !c.ready && c.serving && c.terminating && !c.node_lost;

    let any_usable = candidates.iter().any(usable);
    let any_usable_here = candidates.iter().any(|c| c.on_this_node && usable(c));
    let hint = Hint::choose(candidates, name, zone);

    let cluster = |c: &Candidate<'_>| {
        if any_usable {
            usable(c) && hint.admits(c, name, zone)
        } else {
            last_resort(c)
        }
    };
    let local = |c: &Candidate<'_>| {
        c.on_this_node
            && if any_usable_here {
                usable(c)
            } else {
                last_resort(c)
            }
    };
    Selection {
        in_cluster: candidates.iter().map(|c| scopes.cluster && cluster(c)).collect(),
        in_local: candidates.iter().map(|c| scopes.local && local(c)).collect(),
        endpoints_exist: candidates.iter().any(|c| usable(c) || last_resort(c)),
    }
}

/// Which hints are in force.
#[derive(Clone, Copy)]
enum Hint {
    Node,
    Zone,
    None,
}

impl Hint {
    fn choose(candidates: &[Candidate<'_>], name: &str, zone: Option<&str>) -> Self {
        let ready = || candidates.iter().filter(|c| c.ready);
        let in_force = |hint: Self| {
            ready().all(|c| hint.names_somewhere(c)) && ready().any(|c| hint.admits(c, name, zone))
        };
        [Self::Node, Self::Zone]
            .into_iter()
            .find(|hint| in_force(*hint))
            .unwrap_or(Self::None)
    }

    fn names_somewhere(self, candidate: &Candidate<'_>) -> bool {
        match self {
            Self::Node => !candidate.for_nodes.is_empty(),
            Self::Zone => !candidate.for_zones.is_empty(),
            Self::None => true,
        }
    }

    fn admits(self, candidate: &Candidate<'_>, name: &str, zone: Option<&str>) -> bool {
        match self {
            Self::Node => candidate.for_nodes.iter().any(|n| n == name),
            Self::Zone => zone.is_some_and(|zone| candidate.for_zones.iter().any(|z| z == zone)),
            Self::None => true,
        }
    }
}

#[cfg(test)]
mod tests;
