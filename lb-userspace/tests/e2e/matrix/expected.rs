//! What must come of a cell: a table that was written by hand.

use serde::Deserialize;

use super::cell::{Backends, Cell, Client, Near, Policy, Target};

const TABLE: &str = include_str!("../../../../tests/matrix/expected.yaml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    classes: Vec<Class>,
}

/// Cells with one result.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Class {
    pub(super) class: String,
    because: String,
    when: When,
    pub(super) who: Who,
    #[serde(default)]
    pub(super) source: Source,
}

/// Which cells; an empty list: any.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct When {
    client: Vec<Client>,
    near: Vec<Near>,
    target: Vec<Target>,
    external: Vec<Policy>,
    internal: Vec<Policy>,
    backends: Vec<Backends>,
}

/// Who answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Who {
    /// All backends.
    All,
    /// Those on the client's node.
    Near,
    /// Nobody: silence.
    Nobody,
}

/// Which source address backends see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Source {
    /// The client's.
    #[default]
    Own,
    /// Backends on the node that the client comes in by: the client's; others: that node's.
    Split,
}

impl When {
    fn has(&self, cell: &Cell) -> bool {
        fn any<T: PartialEq>(list: &[T], one: T) -> bool {
            list.is_empty() || list.contains(&one)
        }
        any(&self.client, cell.client)
            && any(&self.near, cell.near)
            && any(&self.target, cell.target)
            && any(&self.external, cell.kind.external)
            && any(&self.internal, cell.kind.internal)
            && any(&self.backends, cell.kind.backends)
    }
}

/// The table.
pub(super) fn classes() -> Vec<Class> {
    let table: Table = serde_norway::from_str(TABLE).expect("tests/matrix/expected.yaml can be read");
    assert!(table.classes.iter().all(|class| !class.because.is_empty()));
    table.classes
}

/// The class of a cell.
pub(super) fn of<'a>(classes: &'a [Class], cell: &Cell) -> &'a Class {
    let mut of_it = classes.iter().filter(|class| class.when.has(cell));
    let class = of_it.next().unwrap_or_else(|| panic!("{cell} is in no class"));
    if let Some(other) = of_it.next() {
        panic!("{cell} is in class {} and in {}", class.class, other.class);
    }
    class
}
