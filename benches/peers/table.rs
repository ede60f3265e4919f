//! Medians, ratios, and the Markdown that shows them.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::goal::Standing;
use crate::job::Sample;
use crate::rows::{OURS, ROWS, Role};
use crate::{Outcome, To};

/// Between two lines of a page, that of where disks were written to and this one, the tables are replaced.
const END: &str = "<!-- end of tables -->";

/// A table of ratios to the fastest peer and of goals, one of system calls, and one of everything measured.
pub fn markdown<'a>(outcomes: impl Iterator<Item = &'a Outcome> + Clone) -> String {
    let mut text = String::from(
        "| image | diskferry | fastest peer | its time | time ÷ | CPU ÷ | goal | is |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for outcome in outcomes.clone() {
        line(&mut text, outcome);
    }
    let counted: Vec<_> = outcomes.clone().filter(|outcome| !outcome.calls.is_empty()).collect();
    if !counted.is_empty() {
        text.push_str("\n| image | system calls for each GiB of data |\n| --- | --- |\n");
    }
    for Outcome { row, calls, .. } in counted {
        let calls: Vec<_> = calls.iter().map(|(name, calls)| format!("{name} {calls}")).collect();
        writeln!(text, "| {} | {} |", row.name, calls.join("; ")).unwrap();
    }
    text.push_str("\n| image | everybody |\n| --- | --- |\n");
    for Outcome { row, results, missing, troubles, .. } in outcomes {
        let measured = results.iter().filter(|(_, samples)| !samples.is_empty()).map(|(contestant, samples)| {
            let once = if samples.len() == 1 { " †" } else { "" };
            format!("{} {}{once}", contestant.name, cell(&median(samples)))
        });
        let missing = missing.iter().map(|name| format!("**{name} is missing**"));
        let troubles = troubles.iter().map(|trouble| format!("**{}**", trouble.lines().next().unwrap_or_default()));
        let everybody: Vec<_> = measured.chain(missing).chain(troubles).collect();
        writeln!(text, "| {} | {} |", row.name, everybody.join("; ")).unwrap();
    }
    text
}

/// The line of one row in the first table.
fn line(text: &mut String, Outcome { row, results, data, .. }: &Outcome) {
    let measured = results.iter().filter(|(_, samples)| !samples.is_empty());
    let medians: Vec<_> = measured.map(|(contestant, samples)| (contestant, median(samples))).collect();
    let Some(((_, ours), peers)) = medians.split_first().filter(|((first, _), _)| first.name == OURS) else {
        writeln!(text, "| {} | **not measured** | | | | | | |", row.name).unwrap();
        return;
    };
    let best = peers.iter().filter(|(peer, _)| peer.role != Role::Bound).min_by_key(|(_, sample)| sample.wall);
    let peer = |name: &str| peers.iter().find(|(peer, _)| peer.name == name).map(|(_, sample)| sample);
    let standing = Standing { ours, best: best.map(|(_, sample)| sample), peer: &peer, data: *data };
    let join = |texts: Vec<String>| texts.join("; ");
    let goals = join(row.goals.iter().map(|goal| goal.text()).collect());
    let verdicts = join(row.goals.iter().map(|goal| goal.verdict(&standing)).collect());
    let (name, its, wall, cpu) = match best {
        Some((peer, best)) => (peer.name, cell(best), ratio(ours.wall, best.wall), ratio(ours.cpu, best.cpu)),
        None => ("none is installed", String::new(), String::new(), String::new()),
    };
    writeln!(text, "| {} | {} | {name} | {its} | {wall} | {cpu} | {goals} | {verdicts} |", row.name, cell(ours))
        .unwrap();
}

/// Puts `tables` between the marks in the page at `path`, which is relative to the workspace. Of rows that are not in them the page keeps what it has.
pub fn put_into(path: &Path, to: To, tables: &str) {
    let begin = match to {
        To::Disk => "<!-- tables of `--bench peers` -->",
        To::Tmpfs => "<!-- tables of `--bench peers --to tmpfs` -->",
    };
    let path = &Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let page = fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(begin).expect("the page has a mark for the tables");
    let (old, after) = rest.split_once(END).expect("the page has a mark behind the tables");
    fs::write(path, format!("{before}{begin}\n{}{END}{after}", merged(old, tables))).unwrap();
}

/// The tables of `old` with the rows of `new`, and what else `new` has.
fn merged(old: &str, new: &str) -> String {
    let mut tables: Vec<Vec<&str>> = Vec::new();
    let is_table = |lines: &Vec<&str>| lines.get(1).is_some_and(|line| line.starts_with("| --- "));
    let paragraphs = old.trim().split("\n\n").chain(new.trim().split("\n\n"));
    for table in paragraphs.map(|paragraph| paragraph.lines().collect()).filter(is_table) {
        match tables.iter_mut().find(|known| known[0] == table[0]) {
            Some(known) => known.extend(&table[2..]),
            None => tables.push(table),
        }
    }
    let ordered = tables.iter().map(|table| {
        let (head, lines) = table.split_at(2);
        // The last one is the newest.
        let of = |name: &str| lines.iter().rfind(|line| line.starts_with(&format!("| {name} | ")));
        let rows = ROWS.iter().filter_map(|row| of(row.name));
        head.iter().chain(rows).map(|line| format!("{line}\n")).collect()
    });
    ordered.collect::<Vec<String>>().join("\n")
}

/// The middle of each measure by itself.
pub fn median(samples: &[Sample]) -> Sample {
    fn middle<T: Ord + Copy>(samples: &[Sample], measure: fn(&Sample) -> T) -> T {
        let mut values: Vec<T> = samples.iter().map(measure).collect();
        values.sort_unstable();
        values[values.len() / 2]
    }
    Sample {
        wall: middle(samples, |sample| sample.wall),
        cpu: middle(samples, |sample| sample.cpu),
        memory: middle(samples, |sample| sample.memory),
        stored: middle(samples, |sample| sample.stored),
    }
}

fn ratio(ours: Duration, theirs: Duration) -> String {
    format!("{:.2}", ours.as_secs_f64() / theirs.as_secs_f64().max(0.001))
}

/// Seconds, CPU seconds, memory, and what was stored.
fn cell(sample: &Sample) -> String {
    let Sample { wall, cpu, memory, stored } = sample;
    format!("{:.2} / {:.2} / {}M / {}M", wall.as_secs_f64(), cpu.as_secs_f64(), memory >> 20, stored >> 20)
}
