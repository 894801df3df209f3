//! A page of commands with what they print: taken apart, compared, written anew.
//!
//! A block of `sh` is a step. A block of `text` right behind it is what the step prints: `N` there is any number, a line of
//! `...` any lines, white space as much as there is. Without such a block the step prints nothing.

/// The line that stands for any lines.
const ANY: &str = "...";
const SH: &str = "```sh\n";
const TEXT: &str = "\n```text\n";
const END: &str = "```\n";

/// One block of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The commands.
    pub(super) script: String,
    /// What they should print.
    pub(super) expected: String,
    /// Where the block ends in the page, and where that of what it prints does.
    ends: [usize; 2],
}

/// The steps of a page, or of a part of it that begins at `offset`.
pub(super) fn steps(page: &str, offset: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = 0;
    while let Some(found) = page[at..].find(SH) {
        let begin = at + found + SH.len();
        let length = page[begin..].find(END).expect("a block of commands ends");
        let script_end = begin + length + END.len();
        let text = page[script_end..].strip_prefix(TEXT).map(|rest| {
            let length = rest.find(END).expect("a block of text ends");
            (&rest[..length], script_end + TEXT.len() + length + END.len())
        });
        let (expected, end) = text.unwrap_or(("", script_end));
        steps.push(Step {
            script: page[begin..begin + length].into(),
            expected: expected.into(),
            ends: [offset + script_end, offset + end],
        });
        at = end;
    }
    steps
}

/// The page with what the steps have printed.
pub(super) fn rewritten(page: &str, printed: &[(Step, String)]) -> String {
    let mut now = page.to_owned();
    for (step, text) in printed.iter().rev() {
        if matches(&step.expected, text) {
            continue;
        }
        let mut kept: Vec<&str> = step.expected.lines().collect();
        // A line that is still right keeps its `N`.
        let lines = text.lines().map(|line| {
            let known = kept.iter().position(|old| line_matches(old, line));
            known.map_or(line, |at| kept.remove(at))
        });
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        let block = if text.is_empty() {
            String::new()
        } else {
            format!("{TEXT}{text}{END}")
        };
        let [from, to] = step.ends;
        now.replace_range(from..to, &block);
    }
    now
}

/// Whether a text is as expected.
pub(super) fn matches(expected: &str, text: &str) -> bool {
    let [expected, text] = [expected, text].map(|text| text.lines().collect::<Vec<_>>());
    lines_match(&expected, &text)
}

fn lines_match(expected: &[&str], lines: &[&str]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((&ANY, rest)) => (0..=lines.len()).any(|skipped| lines_match(rest, &lines[skipped..])),
        Some((first, rest)) => lines
            .split_first()
            .is_some_and(|(line, lines)| line_matches(first, line) && lines_match(rest, lines)),
    }
}

fn line_matches(expected: &str, line: &str) -> bool {
    let [mut expected, mut line] = [expected.trim_end(), line.trim_end()];
    let mut before = ' ';
    while let Some(wanted) = expected.chars().next() {
        let rest = &expected[wanted.len_utf8()..];
        let after = rest.chars().next().unwrap_or(' ');
        let number = wanted == 'N' && !before.is_ascii_uppercase() && !after.is_ascii_uppercase();
        let found = if number && line.starts_with(|c: char| c.is_ascii_digit()) {
            let end = line.find(|c: char| !c.is_ascii_digit() && c != '.');
            end.unwrap_or(line.len())
        } else if wanted == ' ' {
            expected = expected.trim_start_matches(' ');
            let length = line.len() - line.trim_start_matches(' ').len();
            if length == 0 {
                return false;
            }
            line = &line[length..];
            before = ' ';
            continue;
        } else if line.starts_with(wanted) {
            wanted.len_utf8()
        } else {
            return false;
        };
        line = &line[found..];
        expected = rest;
        before = wanted;
    }
    line.is_empty()
}

#[test]
fn a_page_is_compared_but_for_numbers_and_what_is_left_out() {
    for (expected, text, same) in [
        ("", "", true),
        ("", "a\n", false),
        ("a  N b\n", "a 1.5   b\n", true),
        ("a N b\n", "a x b\n", false),
        ("a N b\n", "a N b\n", true),
        ("idle Ns\n", "idle 12s\n", true),
        ("NAME 1\n", "5AME 1\n", false),
        ("a\n...\nd\n", "a\nb\nc\nd\n", true),
        ("a\n...\nd\n", "a\nd\n", true),
        ("a\n...\nd\n", "a\nb\n", false),
        ("a\n", "a\nb\n", false),
        ("a\nb\n", "a\n", false),
    ] {
        assert_eq!(matches(expected, text), same, "{expected:?} {text:?}");
    }
}

#[test]
fn a_page_is_written_anew_with_its_numbers_kept() {
    let page = "x\n```sh\none\n```\n\n```text\na N\nb\n```\ny\n```sh\ntwo\n```\nz\n```sh\nthree\n```\n\n```text\nc\n```\n";
    let steps = steps(page, 0);
    let scripts: Vec<_> = steps.iter().map(|step| step.script.as_str()).collect();
    assert_eq!(scripts, ["one\n", "two\n", "three\n"]);
    let printed = ["a 5\nnew\n", "more\n", ""].map(str::to_owned);
    let printed: Vec<_> = steps.into_iter().zip(printed).collect();
    let expected = "x\n```sh\none\n```\n\n```text\na N\nnew\n```\ny\n```sh\ntwo\n```\n\n```text\nmore\n```\nz\n```sh\nthree\n```\n";
    assert_eq!(rewritten(page, &printed), expected);
    assert_eq!(rewritten(expected, &[]), expected);
}
