//! Medians, ratios, and the Markdown that shows them.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::Outcome;
use crate::job::Sample;

/// Between these two lines of a page the tables are replaced.
const BEGIN: &str = "<!-- tables of `--bench peers` -->";
const END: &str = "<!-- end of tables -->";

/// A table of ratios to the fastest peer, and one of everything measured.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| image | diskferry | fastest peer | its time | time ÷ | CPU ÷ |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for Outcome { row, results } in outcomes {
        let medians: Vec<_> = results.iter().map(|(contestant, samples)| (contestant.name, median(samples))).collect();
        let Some(((_, ours), peers)) = medians.split_first() else { continue };
        let makes_disk = |name: &str| row.contestants().any(|one| one.name == name && one.makes_disk);
        let Some((name, best)) =
            peers.iter().filter(|(name, _)| makes_disk(name)).min_by_key(|(_, sample)| sample.wall)
        else {
            continue;
        };
        let (wall, cpu) = (ratio(ours.wall, best.wall), ratio(ours.cpu, best.cpu));
        writeln!(text, "| {} | {} | {name} | {} | {wall} | {cpu} |", row.name, cell(ours), cell(best)).unwrap();
    }
    text.push_str("\n| image | everybody |\n| --- | --- |\n");
    for Outcome { row, results } in outcomes {
        let everybody: Vec<_> = results
            .iter()
            .map(|(contestant, samples)| format!("{} {}", contestant.name, cell(&median(samples))))
            .collect();
        writeln!(text, "| {} | {} |", row.name, everybody.join("; ")).unwrap();
    }
    text
}

/// Puts `tables` between the marks in the page at `path`, which is relative to the workspace.
pub fn put_into(path: &Path, tables: &str) {
    let path = &Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let page = fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page has a mark for the tables");
    let (_, after) = rest.split_once(END).expect("the page has a mark behind the tables");
    fs::write(path, format!("{before}{BEGIN}\n{tables}{END}{after}")).unwrap();
}

/// The middle of each measure by itself.
fn median(samples: &[Sample]) -> Sample {
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
