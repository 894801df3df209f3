//! `lb-agent top`: what is going on, on a terminal, again and again.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    counters, flows,
    view::{Opened, WhichArgs},
};
use crate::inspect::{Reading, Screen, SortBy, Tables, services, top};

/// How often keys are looked for.
const KEYS: Duration = Duration::from_millis(50);
/// At most one part in so many of the time is spent on reading flow tables.
const SHARE: u32 = 20;
/// How wide a picture on paper is.
const WIDTH: u16 = 150;

/// Flags of `lb-agent top`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct TopArgs {
    /// Print one picture as text, all Services and the backends of the first, and end. Takes one interval.
    #[arg(long)]
    once: bool,
    /// Seconds from one picture to the next: 0.5 or more.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,
    /// What Services are sorted by.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Sort::Connections)]
    sort: Sort,
    #[command(flatten)]
    which: WhichArgs,
}

/// What Services are sorted by.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    /// New connections.
    Connections,
    /// Packets, both ways.
    Packets,
    /// Bytes, both ways.
    Bytes,
    /// Flows in the flow tables.
    Flows,
    /// Names.
    Name,
}

const EXAMPLES: &str = "Examples:
  lb-agent top                                   Services with most new connections first
  lb-agent top -n shop --sort bytes              those of a namespace, by bytes
  lb-agent top --once -s shop/web                one picture, for a file or a mail

Keys: q or Ctrl-C quit; up and down (or k and j) select a Service, whose backends are below; c, p, b, f, n sort by connections,
packets, bytes, flows, names.

NEW/s are new flows, and connections that got their backend at their socket. IN is from clients, OUT from backends; REFUSED is
what was refused or dropped. These are counted by the programs where the agent runs with --service-counters, and go on while it
is away. Without that flag there are flows by Service and backend, and NEW/s is how many of them are younger than ten seconds.

Cost: a picture reads the counters, two system calls for each (some 65,000 in a family at most). Flow tables are long: a flow
is two entries, and an entry two system calls. They are read when the last reading was 20 times as long ago as it took, so at
most a twentieth of one processor is spent on them; the second line says how old they are.";

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok();
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let usable = duration.filter(|duration| *duration >= Duration::from_millis(500));
    usable.ok_or_else(|| "write a number of seconds, 0.5 or more".into())
}

/// What was read, and when.
struct Top {
    which: WhichArgs,
    began: Instant,
    before: Option<Reading>,
    now: Reading,
    tables: Tables,
    /// When the tables were read, and how long it took.
    read: Option<(Instant, Duration)>,
    screen: Screen,
}

impl Top {
    fn new(args: &TopArgs) -> Self {
        Self {
            which: args.which.clone(),
            began: Instant::now(),
            before: None,
            now: Reading::default(),
            tables: Tables::default(),
            read: None,
            screen: Screen {
                sort: args.sort.into(),
                ..Screen::default()
            },
        }
    }

    /// Reads what is due. (Maps are opened anew each time: a restart of the agent may have put others in their place.)
    fn read(&mut self, say: bool) -> Result<()> {
        let opened = self.which.open(say)?;
        let reading = Reading {
            at: self.began.elapsed().as_secs_f64(),
            traffic: counters::rows(&self.which.instance(), &opened)?,
        };
        let is_first = self.read.is_none();
        self.before = (!is_first).then(|| std::mem::replace(&mut self.now, reading.clone()));
        self.now = reading;
        if self.read.is_none_or(|(at, took)| at.elapsed() >= took * SHARE) {
            let began = Instant::now();
            self.tables = tables(&opened)?;
            self.read = Some((began, began.elapsed()));
        }
        self.screen.node = opened.node();
        self.screen.agent_running = opened.is_running();
        self.arrange();
        Ok(())
    }

    /// Makes rows of what was read.
    fn arrange(&mut self) {
        let screen = &mut self.screen;
        screen.counted = self.now.traffic.is_some();
        screen.since = self.before.as_ref().map_or(0.0, |before| self.now.at - before.at);
        screen.flows_read = (self.read).map_or([0.0; 2], |(at, took)| {
            let done = at.elapsed().saturating_sub(took);
            [done.as_secs_f64(), took.as_secs_f64()]
        });
        screen.rows = top(self.before.as_ref(), &self.now, &self.tables, screen.sort);
        screen.selected = screen.selected.min(screen.rows.len().saturating_sub(1));
    }

    /// Does what a key says; `false`: it is the end.
    fn press(&mut self, code: KeyCode, control: bool) -> bool {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') if control => return false,
            KeyCode::Up | KeyCode::Char('k') => self.screen.selected = self.screen.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.screen.selected += 1,
            KeyCode::Home => self.screen.selected = 0,
            KeyCode::Char(key) => {
                if let Some((by, ..)) = SortBy::ALL.into_iter().find(|(_, of, _)| *of == key) {
                    self.screen.sort = by;
                }
            }
            _ => {}
        }
        self.arrange();
        true
    }
}

fn tables(opened: &Opened) -> Result<Tables> {
    let (names, filter, clock) = (&opened.names, &opened.filter, &opened.clock);
    let mut frontends = services(&opened.v4, names, filter, clock)?;
    frontends.extend(services(&opened.v6, names, filter, clock)?);
    Ok(Tables {
        frontends,
        flows: flows::read(opened)?,
    })
}

/// Shows what is going on, until told to end.
pub(super) async fn show(args: &TopArgs) -> Result<()> {
    let mut top = Top::new(args);
    if args.once {
        top.read(true)?;
        if top.now.traffic.is_some() {
            tokio::time::sleep(args.interval).await;
            top.read(false)?;
        }
        let text = top.screen.text(WIDTH);
        return io::stdout().write_all(text.as_bytes()).context("cannot print");
    }
    ensure!(
        io::stdout().is_terminal() && io::stdin().is_terminal(),
        "lb-agent top draws on a terminal, and this is none: --once prints one picture as text"
    );
    // What is wrong from the start is said where it stays to be read.
    top.read(false)?;
    let on = Drawing::begin()?;
    on.draw_until_told(args, top).await
}

/// A terminal that is drawn on. However this ends, also by an error or a panic, the terminal is given back.
struct Drawing(DefaultTerminal);

impl Drawing {
    fn begin() -> Result<Self> {
        ratatui::try_init()
            .map(Self)
            .context("the terminal cannot be drawn on")
    }

    async fn draw_until_told(mut self, args: &TopArgs, mut top: Top) -> Result<()> {
        let told = |kind| signal(kind).context("signals cannot be waited for");
        let (mut terminate, mut interrupt) = (told(SignalKind::terminate())?, told(SignalKind::interrupt())?);
        let mut hangup = told(SignalKind::hangup())?;
        let mut due = Instant::now() + args.interval;
        self.draw(&top)?;
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hangup.recv() => return Ok(()),
                () = tokio::time::sleep(KEYS) => {}
            }
            let mut changed = false;
            while event::poll(Duration::ZERO).context("keys cannot be read")? {
                match event::read().context("keys cannot be read")? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => {
                        if !top.press(key.code, key.modifiers.contains(KeyModifiers::CONTROL)) {
                            return Ok(());
                        }
                        changed = true;
                    }
                    Event::Resize(..) => changed = true,
                    _ => {}
                }
            }
            if Instant::now() >= due {
                top.read(false)?;
                due = Instant::now() + args.interval;
                changed = true;
            }
            if changed {
                self.draw(&top)?;
            }
        }
    }

    fn draw(&mut self, top: &Top) -> Result<()> {
        let drawn = self.0.draw(|frame| top.screen.draw(frame));
        drawn.map(drop).context("the terminal cannot be drawn on")
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

impl From<Sort> for SortBy {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Connections => Self::Connections,
            Sort::Packets => Self::Packets,
            Sort::Bytes => Self::Bytes,
            Sort::Flows => Self::Flows,
            Sort::Name => Self::Name,
        }
    }
}
