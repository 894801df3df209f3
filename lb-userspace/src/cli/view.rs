//! What the commands that list something have in common: which lines, in which form, once or again and again.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use lb_common::abi::{V4, V6};
use serde::Serialize;

use super::InstanceArgs;
use crate::{
    agent::{lock::Lock, told::Told},
    config::Instance,
    inspect::{Clock, Filter, Listing, Names, ProblemRow, Row},
    load::PinDirectory,
    maps::{Lookup as _, bpf::Pinned},
    model::Problem,
    node,
};

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Flags that say what is wanted, of which instance.
#[derive(Args, Clone, Debug)]
pub(super) struct WhichArgs {
    /// Only what is of Services of this namespace.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Only what is of this Service: NAME, or NAMESPACE/NAME.
    #[arg(short, long, value_name = "NAME")]
    service: Option<String>,
    /// Only what this address has to do with: as frontend, backend or client.
    #[arg(short, long, value_name = "IP")]
    address: Option<IpAddr>,
    #[command(flatten)]
    instance: InstanceArgs,
}

/// Flags of every command that lists something.
#[derive(Args, Clone, Debug)]
pub(super) struct ViewArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Print it again and again, until interrupted.
    #[arg(short, long)]
    watch: bool,
    /// Seconds from one time to the next, with --watch.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
}

/// How a list is printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// For people, with everything there is.
    Wide,
    /// For programs.
    Json,
    /// For programs, too.
    Yaml,
}

impl Format {
    /// Whether it is for people.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// The maps, and what is known beside them.
pub(super) struct Opened {
    pub(super) v4: Pinned<V4>,
    pub(super) v6: Pinned<V6>,
    pub(super) names: Names,
    pub(super) filter: Filter,
    pub(super) clock: Clock,
    told: Option<Told>,
    running: bool,
}

impl WhichArgs {
    /// Which instance is meant.
    pub(super) fn instance(&self) -> Instance {
        Instance::from(self.instance.clone())
    }

    /// Opens the maps, and reads what is known beside them; says what is missing, if it is to.
    pub(super) fn open(&self, say: bool) -> Result<Opened> {
        let instance = self.instance();
        let (v4, v6) = maps(&instance)?;
        let shift = v4.node()?.map_or(0, |node| node.tick_shift);
        let (told, missing) = match told(&instance) {
            Ok(told) => (Some(told), None),
            Err(error) => (None, Some(error)),
        };
        let running = Lock::is_held(&instance);
        if say && let Some(error) = &missing {
            eprintln!("note: names of Services are not known, and addresses are shown alone: {error:#}");
        } else if say && !running {
            eprintln!("note: the agent is not running; names of Services are those that it wrote last");
        }
        let names = told
            .as_ref()
            .map(|told| Names::new(told.services.iter().cloned()));
        let names = names.unwrap_or_default();
        let filter = Filter {
            namespace: self.namespace.clone(),
            service: self.service.clone(),
            address: self.address,
        };
        let checked = filter.check(&names);
        let opened = Opened {
            clock: Clock {
                tick: node::jiffies().map_or(0, |jiffies| (jiffies >> shift) as u32),
                shift,
                hertz: node::hertz().context("the kernel does not say how fast its clock ticks")?,
            },
            v4,
            v6,
            names,
            filter,
            told,
            running,
        };
        // A name may be that of an object that cannot be served: then this is the answer.
        match (checked, opened.problems().first()) {
            (Ok(()), _) => Ok(opened),
            (Err(unknown), None) => Err(unknown.into()),
            (Err(unknown), Some(ProblemRow { object, message })) => bail!("{object}: {message} ({unknown})"),
        }
    }
}

impl ViewArgs {
    /// How it is to be printed.
    pub(super) fn format(&self) -> Format {
        self.output
    }

    /// Whether lines are to be left out.
    pub(super) fn is_filtered(&self) -> bool {
        let which = &self.which;
        which.namespace.is_some() || which.service.is_some() || which.address.is_some()
    }

    /// Which instance is meant.
    pub(super) fn instance(&self) -> Instance {
        self.which.instance()
    }

    /// Prints what `text` makes of the maps, once or again and again: each time of the maps that programs read then, which
    /// are others after a restart of the agent.
    pub(super) async fn show(&self, text: impl Fn(&Opened) -> Result<String>) -> Result<()> {
        self.repeat(|round| text(&self.which.open(round == 0)?)).await
    }

    /// Prints a text, once or again and again; `text` gets the number of the round.
    pub(super) async fn repeat(&self, text: impl Fn(u64) -> Result<String>) -> Result<()> {
        let mut stdout = io::stdout();
        let clear = self.watch && self.output.is_text() && stdout.is_terminal();
        for round in 0_u64.. {
            if round > 0 {
                tokio::time::sleep(Duration::from_secs(self.interval)).await;
            }
            let text = text(round)?;
            let between = match (clear, round) {
                (true, _) => CLEAR,
                (false, 0) => "",
                (false, _) if self.output == Format::Yaml => "---\n",
                (false, _) => "\n",
            };
            match stdout
                .write_all(format!("{between}{text}").as_bytes())
                .and_then(|()| stdout.flush())
            {
                // Whoever reads has seen enough: `| head`.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                other => other.context("cannot print")?,
            }
            if !self.watch {
                break;
            }
        }
        Ok(())
    }

    /// A listing in the form that was asked for. `below`: what people are told below the table.
    pub(super) fn render<R: Row + Serialize>(
        &self,
        listing: &Listing<R>,
        below: impl Fn(&Listing<R>) -> String,
    ) -> Result<String> {
        match self.output {
            Format::Table | Format::Wide => Ok(listing.table(self.output == Format::Wide) + &below(listing)),
            _ => self.document(listing),
        }
    }
}

impl ViewArgs {
    /// Any value, for programs.
    pub(super) fn document(&self, value: &impl Serialize) -> Result<String> {
        Ok(match self.output {
            Format::Yaml => serde_norway::to_string(value)?,
            _ => format!("{:#}\n", serde_json::to_value(value)?),
        })
    }
}

impl Opened {
    /// Name of this node, if an agent has said it.
    pub(super) fn node(&self) -> Option<String> {
        self.told.as_ref().map(|told| told.node.clone())
    }

    /// Whether an agent is running.
    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// A listing of these rows.
    pub(super) fn listing<R>(&self, items: Vec<R>) -> Listing<R> {
        Listing {
            node: self.told.as_ref().map(|told| told.node.clone()),
            agent_running: self.running,
            names_known: self.names.known(),
            items,
            omitted: 0,
            problems: None,
        }
    }

    /// What is wrong with objects, as far as it is wanted.
    pub(super) fn problems(&self) -> Vec<ProblemRow> {
        let all = self.told.iter().flat_map(|told| &told.problems);
        let wanted = all.filter(|problem| self.filter.admits_object(&problem.object));
        let row = |problem: &Problem| ProblemRow {
            object: problem.object.clone(),
            message: problem.message.clone(),
        };
        wanted.map(row).collect()
    }
}

fn told(instance: &Instance) -> Result<Told> {
    let file = instance.status_file();
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Told::parse(&text)
        .with_context(|| format!("{} was written by an agent of another version", file.display()))
}

fn maps(instance: &Instance) -> Result<(Pinned<V4>, Pinned<V6>)> {
    let pins = PinDirectory::new(&instance.bpffs, &instance.name)?;
    let folder = instance.bpffs.join(&instance.name);
    match folder.try_exists() {
        Ok(true) => {}
        Ok(false) => bail!(
            "instance `{}` has nothing in the kernel: there is no {}; start an agent (lb-agent run), or say which one with \
             --instance and --bpffs",
            instance.name,
            folder.display()
        ),
        Err(error) => bail!("{} cannot be read ({error}): this takes root", folder.display()),
    }
    Ok((
        Pinned::open(|name| pins.map(name))?,
        Pinned::open(|name| pins.map(name))?,
    ))
}
