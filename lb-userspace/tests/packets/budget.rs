//! What the programs cost the verifier: a program that suddenly needs much more is noticed here, long before the
//! kernel's limit of a million steps refuses it on a node.

use std::collections::BTreeMap;

use aya::programs::{ProgramInfo, SchedClassifier, Xdp};

use crate::world::{Program, World, in_world};

/// `program verified-instructions translated-instructions`; lines with `#` are comments.
const BUDGET: &str = include_str!("budget.txt");

/// How much more than in the table is tolerated, in per cent: kernels differ a little.
const SLACK: u32 = 20;

#[test]
fn programs_stay_within_their_budget_of_instructions_needs_root() {
    in_world("instruction budget", 1024, |world| {
        let budget = parse(BUDGET);
        let mut table = String::new();
        let mut over = Vec::new();
        for program in Program::ALL {
            let name = program.name();
            let info = info(&world, program);
            let verified = info
                .verified_instruction_count()
                .expect("kernels from 5.16 on say");
            let translated = info.size_translated().expect("root may see") / 8;
            table += &format!("{name} {verified} {translated}\n");
            let limits = *budget.get(name).unwrap_or(&[0, 0]);
            for (number, limit) in [verified, translated].into_iter().zip(limits) {
                if number > limit + limit * SLACK / 100 {
                    over.push(format!("{name}: {number}, budget {limit}"));
                }
            }
        }
        eprint!("{table}");
        assert!(
            over.is_empty(),
            "more than {SLACK} % over the budget: {over:#?}\nif that is right, budget.txt becomes:\n{table}"
        );
    });
}

fn info(world: &World, program: Program) -> ProgramInfo {
    match program {
        Program::UplinkXdp => world.program::<Xdp>(program).info(),
        _ => world.program::<SchedClassifier>(program).info(),
    }
    .expect("a loaded program has information")
}

fn parse(text: &str) -> BTreeMap<&str, [u32; 2]> {
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [name, verified, translated] = words[..] else {
                panic!("budget.txt: {line:?} has not three words");
            };
            let number = |text: &str| text.parse().expect("budget.txt has numbers");
            (name, [number(verified), number(translated)])
        })
        .collect()
}
