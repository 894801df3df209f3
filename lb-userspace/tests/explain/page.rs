//! `docs/explain.md` shows what the command prints. `LB_UPDATE_GOLDEN=1 cargo test` writes it anew; the diff is then the
//! review.

use std::{env, fs};

use super::asked::{root, run};

/// Begins a block with a command and what it prints.
const COMMAND: &str = "$ lb-agent explain ";

#[test]
fn explain_prints_what_its_page_shows() {
    let path = root().join("docs/explain.md");
    let page = fs::read_to_string(&path).expect("the page is there");
    let mut shown = 0;
    let blocks = page.split("```").enumerate().map(|(number, part)| {
        // Every other part is inside a block: behind its kind of contents.
        let command = part
            .split_once('\n')
            .and_then(|(_, block)| block.strip_prefix(COMMAND));
        match command.filter(|_| number % 2 == 1) {
            Some(block) => {
                shown += 1;
                let (arguments, _) = block.split_once('\n').expect("the command is a line");
                let (kind, _) = part.split_once('\n').expect("it was found above");
                let output = run(&arguments.split_whitespace().collect::<Vec<_>>());
                format!(
                    "{kind}\n{COMMAND}{arguments}\n{}",
                    String::from_utf8_lossy(&output.stdout)
                )
            }
            None => part.to_owned(),
        }
    });
    let now = blocks.collect::<Vec<_>>().join("```");
    assert!(shown > 0, "the page shows no command");
    if env::var_os("LB_UPDATE_GOLDEN").is_some() {
        fs::write(&path, &now).expect("the page can be written");
        return;
    }
    let differs = page.lines().zip(now.lines()).find(|(page, now)| page != now);
    assert!(page == now, "docs/explain.md is not what is printed: {differs:?}");
}
