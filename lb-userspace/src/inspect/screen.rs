//! What `lb-agent top` draws: Services, the backends of the selected one, and what the numbers are worth.

use ratatui::{
    Frame, Terminal,
    backend::TestBackend,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::Line,
    widgets::{Paragraph, Row, Table, TableState},
};

use super::top::{NEW, Rates, SortBy, TopRow};

/// What is drawn.
#[derive(Clone, Default, Debug)]
pub struct Screen {
    /// Name of this node, if it is known.
    pub node: Option<String>,
    /// An agent is running.
    pub agent_running: bool,
    /// Programs count for each Service.
    pub counted: bool,
    /// Seconds since the flow tables were read, and how many seconds that took.
    pub flows_read: [f64; 2],
    /// Seconds that rates are of; 0: there are none yet.
    pub since: f64,
    /// What rows are sorted by.
    pub sort: SortBy,
    /// The rows.
    pub rows: Vec<TopRow>,
    /// The selected one.
    pub selected: usize,
}

/// Lines that are no Service's: those above and below the tables, and their headings.
const AROUND: u16 = 6;
/// Lines for backends at least, where there is room.
const BACKENDS: u16 = 6;

const HEADINGS: [&str; 9] = [
    "NEW/s",
    "PKT/s IN",
    "B/s IN",
    "PKT/s OUT",
    "B/s OUT",
    "REFUSED/s",
    "ESTAB",
    "UNANSW",
    "FLOWS",
];

impl Screen {
    /// Draws it.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let room = frame.area().height.saturating_sub(AROUND);
        let backends = self.selected_row().map_or(0, |row| row.backends.len() as u16);
        let below = backends.min((room / 3).max(BACKENDS.min(room / 2)));
        let [top, services, title, lower, keys] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(2),
            Constraint::Length(1),
            Constraint::Length(below + 1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(vec![self.about(), self.worth()]), top);
        self.services(frame, services);
        if let Some(row) = self.selected_row() {
            let text = format!(
                "backends of {}/{}, {} in all",
                row.name, row.protocol, row.endpoints
            );
            frame.render_widget(Line::from(text).style(Modifier::BOLD), title);
            self.backends(frame, lower, row);
        }
        let sorts = SortBy::ALL
            .map(|(_, key, name)| format!("{key} {name}"))
            .join(", ");
        frame.render_widget(
            Line::from(format!("q quit; up, down select; sort by {sorts}")),
            keys,
        );
    }

    /// As text, `width` columns wide: all Services.
    #[must_use]
    pub fn text(&self, width: u16) -> String {
        let backends = self.selected_row().map_or(0, |row| row.backends.len());
        let height = (self.rows.len() + 3 * backends.max(usize::from(BACKENDS))) as u16 + AROUND;
        let mut terminal =
            Terminal::new(TestBackend::new(width, height)).expect("memory is a terminal without errors");
        terminal
            .draw(|frame| self.draw(frame))
            .expect("memory is a terminal without errors");
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(usize::from(width).max(1));
        let lines = lines.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>());
        let mut lines: Vec<String> = lines.map(|line| line.trim_end().to_owned()).collect();
        lines.pop(); // keys are of no use on paper
        lines.retain(|line| !line.is_empty());
        lines.join("\n") + "\n"
    }

    fn selected_row(&self) -> Option<&TopRow> {
        self.rows
            .get(self.selected.min(self.rows.len().saturating_sub(1)))
    }

    fn about(&self) -> Line<'static> {
        let node = self.node.as_deref().unwrap_or("this node");
        let agent = if self.agent_running {
            ""
        } else {
            "; the agent is not running: the programs go on, and these rates are theirs"
        };
        let text = format!(
            "{node}: {} Service ports, by {}{agent}",
            self.rows.len(),
            self.sort.name()
        );
        Line::from(text).style(Modifier::BOLD)
    }

    fn worth(&self) -> Line<'static> {
        let [ago, took] = self.flows_read;
        let flows = format!("flow tables read {ago:.0} s ago, in {took:.2} s");
        Line::from(match (self.counted, self.since > 0.0) {
            (true, true) => format!("rates of the last {:.1} s; {flows}", self.since),
            (true, false) => format!("no rates yet; {flows}"),
            (false, _) => format!(
                "no packets and bytes: the agent runs without --service-counters; NEW/s: flows of the last {NEW} s; {flows}"
            ),
        })
    }

    fn services(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.rows.iter().map(|row| {
            let who = [row.name.clone(), row.protocol.clone(), row.endpoints.to_string()];
            who.into_iter().chain(cells(&row.rates)).collect::<Vec<_>>()
        });
        let name = self.rows.iter().map(|row| row.name.chars().count());
        let name = name.max().unwrap_or(0).clamp(7, 48) as u16;
        let mut state = TableState::new().with_selected(Some(self.selected));
        let table = table(
            &["SERVICE", "PROTO", "BACKENDS"],
            [name, 5, 8].into(),
            rows.collect(),
        );
        let table = table.row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn backends(&self, frame: &mut Frame<'_>, area: Rect, of: &TopRow) {
        let rows = of.backends.iter().map(|(name, rates)| {
            let name = std::iter::once(name.clone());
            name.chain(cells(rates)).collect::<Vec<_>>()
        });
        let name = of.backends.iter().map(|(name, _)| name.chars().count());
        let name = name.max().unwrap_or(0).max(7) as u16;
        frame.render_widget(table(&["BACKEND"], vec![name], rows.collect()), area);
    }
}

/// A table whose first columns are these.
fn table(first: &[&'static str], mut widths: Vec<u16>, rows: Vec<Vec<String>>) -> Table<'static> {
    let headings: Vec<&str> = first.iter().copied().chain(HEADINGS).collect();
    widths.extend(HEADINGS.map(|heading| heading.len().max(7) as u16));
    Table::new(
        rows.into_iter().map(Row::new),
        widths.into_iter().map(Constraint::Length),
    )
    .header(Row::new(headings).style(Modifier::BOLD))
    .column_spacing(2)
}

fn cells(rates: &Rates) -> [String; 9] {
    let rate = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
    let pair = |pair: Option<[f64; 2]>, unit: usize| rate(pair.map(|pair| pair[unit]));
    [
        rate(rates.opened),
        pair(rates.received, 0),
        pair(rates.received, 1),
        pair(rates.answered, 0),
        pair(rates.answered, 1),
        rate(rates.refused),
        rates.established.to_string(),
        rates.unanswered.to_string(),
        rates.flows.to_string(),
    ]
}

/// A number in a few characters: thousands are k, M and G.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        _ if value >= 1e9 => (value / 1e9, "G"),
        _ if value >= 1e6 => (value / 1e6, "M"),
        _ if value >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    if value >= 100.0 || value == 0.0 || (unit.is_empty() && value.fract() == 0.0) {
        format!("{value:.0}{unit}")
    } else {
        format!("{value:.1}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.2"),
            (12.0, "12"),
            (1234.5, "1234"),
            (12_345.0, "12.3k"),
            (9_876_543.0, "9.9M"),
            (1.5e11, "150G"),
        ] {
            assert_eq!(short(value), text, "{value}");
        }
    }

    #[test]
    fn any_size_of_a_terminal_can_be_drawn_on() {
        let row = TopRow {
            name: "shop/web".into(),
            protocol: "TCP".into(),
            rates: Rates::default(),
            endpoints: 3,
            backends: vec![("10.1.1.11:8080".into(), Rates::default()); 9],
        };
        let screen = Screen {
            rows: vec![row; 40],
            selected: 99,
            ..Screen::default()
        };
        for (width, height) in [(1, 1), (3, 40), (200, 2), (80, 24), (20, 7), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| screen.draw(frame)).unwrap();
        }
    }
}
