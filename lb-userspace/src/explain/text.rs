//! An answer for people.

use std::fmt;

use super::answer::{Answer, Reached};

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from,
            source,
            to,
            protocol,
            service,
            node,
            verdict,
            reason,
            help: _,
            rule,
            client_sees,
            backends,
            hops,
            evidence,
            notes,
            cost,
            verified,
            remedies,
        } = self;
        let named = match service {
            Some(service) => format!("  (Service {service})"),
            None => String::new(),
        };
        match from.parse::<std::net::IpAddr>() {
            Ok(_) => writeln!(f, "from     {from}")?,
            Err(_) => writeln!(f, "from     {from}, {source}")?,
        }
        writeln!(f, "to       {to} {protocol}{named}")?;
        writeln!(f, "decided  on node {node}")?;
        writeln!(f, "verdict  {}  ({reason})", verdict.name().to_uppercase())?;
        write_wrapped(f, "why      ", rule)?;
        write_wrapped(f, "client   ", &format!("sees {client_sees}"))?;
        if let Some(cost) = cost {
            write_wrapped(f, "cost     ", cost)?;
        }
        if let Some(verified) = verified {
            write_wrapped(f, "verified ", &verified.to_string())?;
        }
        notes
            .iter()
            .try_for_each(|note| write_wrapped(f, "note     ", note))?;
        writeln!(f, "hops")?;
        for (number, hop) in hops.iter().enumerate() {
            let place = [hop.node.as_deref(), hop.hook].into_iter().flatten();
            let place = place.collect::<Vec<_>>().join(" ");
            write_wrapped(f, &format!("  {}  {place:<20} ", number + 1), &hop.says)?;
        }
        if !backends.is_empty() {
            writeln!(f, "backends")?;
            backends
                .iter()
                .try_for_each(|backend| write_backend(f, backend))?;
        }
        if !evidence.is_empty() {
            writeln!(f, "evidence, from the maps of node {node}")?;
            evidence
                .iter()
                .try_for_each(|evidence| writeln!(f, "  {evidence}"))?;
        }
        if !remedies.found.is_empty() {
            writeln!(f, "remedies, each tried on what it changes")?;
        }
        for (number, remedy) in remedies.found.iter().enumerate() {
            write_wrapped(f, &format!("  {}  ", number + 1), &remedy.what)?;
            // To be copied: never broken.
            remedy
                .command
                .lines()
                .try_for_each(|line| writeln!(f, "       {line}"))?;
            write_wrapped(f, "     costs  ", &remedy.cost)?;
            for (number, tried) in remedy.tried.iter().enumerate() {
                write_wrapped(
                    f,
                    if number == 0 {
                        "     tried  "
                    } else {
                        "            "
                    },
                    tried,
                )?;
            }
        }
        match &remedies.none {
            Some(why) => write_wrapped(f, "no remedy  ", why),
            None => Ok(()),
        }
    }
}

/// Columns of a line, but for words that are longer.
const WIDTH: usize = 120;

/// Writes a text behind `begin`, its further lines indented like the first.
fn write_wrapped(f: &mut fmt::Formatter<'_>, begin: &str, text: &str) -> fmt::Result {
    let indent = begin.chars().count();
    let mut line = begin.to_owned();
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(f, "{line}")?;
            line = " ".repeat(indent);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    writeln!(f, "{line}")
}

fn write_backend(f: &mut fmt::Formatter<'_>, reached: &Reached) -> fmt::Result {
    let Reached {
        backend,
        name,
        node,
        rows,
        of,
        source,
        keeps_source,
    } = reached;
    let percent = 100.0 * f64::from(*rows) / f64::from((*of).max(1));
    let name = name.as_deref().unwrap_or("-");
    let node = node.as_deref().unwrap_or("-");
    let sees = if *keeps_source {
        "the client's own address".to_owned()
    } else {
        source.to_string()
    };
    writeln!(
        f,
        "  {:<24} {name:<24} {node:<10} {percent:>5.1}%  sees {sees}",
        backend.to_string()
    )
}
