//! docs/errors.md lists every error code that the sources can produce, and no other; each of them is what a test expects.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot read the tree has failed")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Crates that make errors.
const CRATES: [&str; 4] = ["core", "remote", "cli", "worker"];

/// Codes that belong to a kind of error, not to one place.
const GENERAL: [&str; 8] =
    ["sandbox-missing", "usage", "unexpected", "stopped", "source-read", "mismatch", "target-write", "target-no-space"];

/// Files and folders that hold tests only.
const TESTS: [&str; 2] = ["tests", "testing"];

/// What the tests of a file begin with.
const UNIT_TESTS: &str = "#[cfg(test)]\nmod tests {";

/// Tests whose literals need not come out of anything: the list above, and lists of what may come.
const PROVES_NOTHING: [&str; 3] =
    ["cli/tests/error_codes.rs", "core/tests/differential.rs", "remote/tests/schedules.rs"];

/// Stands for the name of a format where a place serves several.
const ANY_FORMAT: &str = "FORMAT";

#[test]
fn every_code_is_documented_and_every_documented_code_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let mut produced: BTreeSet<String> = GENERAL.map(str::to_owned).into();
    for path in CRATES.iter().flat_map(|name| rust_files(&root.join("crates").join(name).join("src"))) {
        produced.extend(codes(&path));
    }
    let general: BTreeSet<_> =
        produced.iter().filter_map(|code| code.strip_prefix(ANY_FORMAT)).map(str::to_owned).collect();
    produced.retain(|code| code.starts_with(ANY_FORMAT) || !general.iter().any(|general| code.ends_with(general)));
    let documented = documented(&root.join("docs/errors.md"));
    let missing: Vec<_> = produced.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&produced).collect();
    assert!(missing.is_empty() && stale.is_empty(), "docs/errors.md lacks {missing:#?} and invents {stale:#?}");
    let security = fs::read_to_string(root.join("docs/security.md")).unwrap();
    for told in
        [format!("docs/errors.md has {} codes", documented.len()), format!("| met | {}, [above]", documented.len())]
    {
        assert!(security.contains(&told), "docs/security.md does not say {told:?}");
    }
}

/// A code is expected where the whole of it stands in a test as one literal: for one of every format, behind any one name; for one
/// without a dash, which is a word for other things too, on a line that says `code`.
#[test]
fn every_code_is_expected_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let index = fs::read_to_string(root.join("testdata/INDEX.toml")).unwrap();
    let mut lines: Vec<_> = index.lines().filter(|line| line.starts_with("refused = ")).map(str::to_owned).collect();
    for name in CRATES {
        let folder = root.join("crates").join(name);
        for path in all_rust_files(&folder) {
            if PROVES_NOTHING.iter().any(|file| path.ends_with(file)) {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let is_test = is_test(path.strip_prefix(&folder).unwrap());
            let tests = if is_test { &text } else { text.split_once(UNIT_TESTS).map_or("", |(_, tests)| tests) };
            lines.extend(tests.lines().filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned));
        }
    }
    let documented = documented(&root.join("docs/errors.md"));
    let missing: Vec<_> = documented.iter().filter(|code| !lines.iter().any(|line| expects(line, code))).collect();
    println!("{} codes", documented.len());
    assert!(missing.is_empty(), "no test expects {missing:#?}");
}

#[test]
fn a_code_is_expected_by_the_whole_of_it_alone() {
    assert!(expects(r#"(40, "xz-data"),"#, "xz-data"));
    assert!(expects(r#"assert_eq!(code(image), "raw-ends-early");"#, "FORMAT-ends-early"));
    assert!(expects(r#"assert_eq!(error.code(), "stopped");"#, "stopped"));
    for (line, code) in [
        (r#"("data", image),"#, "xz-data"),
        (r#"format!("{format}-data")"#, "xz-data"),
        (r#"("xz-data-2", 0)"#, "xz-data"),
        (r#"("ends-early", 0)"#, "FORMAT-ends-early"),
        (r#"("raw ends-early", "-ends-early", "{}-ends-early")"#, "FORMAT-ends-early"),
        (r#"(error["kind"], "stopped")"#, "stopped"),
    ] {
        assert!(!expects(line, code), "{code} by {line}");
    }
}

/// Whether a `line` of a test expects a `code`.
fn expects(line: &str, code: &str) -> bool {
    let mut literals = line.split('"').skip(1).step_by(2);
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match code.strip_prefix(ANY_FORMAT) {
        Some(general) => literals.any(|literal| literal.strip_suffix(general).is_some_and(is_name)),
        None => literals.any(|literal| literal == code) && (code.contains('-') || line.contains("code")),
    }
}

/// First cells of the tables whose first column is headed `code`; each table is in order.
fn documented(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap();
    let mut codes = BTreeSet::new();
    for table in text.split("\n| code |").skip(1) {
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let cells: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).collect();
        assert!(cells.is_sorted(), "not in order: {cells:#?}");
        for code in cells {
            assert!(codes.insert(code.clone()), "{code} is documented twice");
        }
    }
    codes
}

/// Files of the program, without those that hold tests only.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    all_rust_files(dir).into_iter().filter(|path| !is_test(path.strip_prefix(dir).unwrap())).collect()
}

fn is_test(path: &Path) -> bool {
    path.ancestors().any(|part| TESTS.map(OsStr::new).map(Some).contains(&part.file_stem()))
}

fn all_rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(all_rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The codes of one source file.
fn codes(path: &Path) -> Vec<String> {
    let text = program(path);
    let mut codes = Vec::new();
    for call in ["::corrupt(", "::unsupported("] {
        for arguments in following(&text, call) {
            let (format, rest) = arguments.split_once(',').unwrap_or_default();
            codes.push(format!("{}-{}", format_name(path, format), code(path, call, rest)));
        }
    }
    // A file with many refusals has a helper of this name, which takes the code first.
    let helped = following(&text, "refuse(").filter(|arguments| arguments.starts_with('"'));
    let has_helper = helped.clone().next().is_some();
    let built = following(&text, "Refusal {").filter_map(built_with_code);
    for refusal in helped.chain(built.filter(|value| !(has_helper && value.starts_with(',')))) {
        codes.push(format!("{}-{}", format_name(path, "FORMAT"), code(path, "Refusal", refusal)));
    }
    for target in following(&text, "Error::Target {").filter_map(built_with_code) {
        codes.push(format!("target-{}", code(path, "Error::Target", target)));
    }
    for source in following(&text, "Error::source(") {
        codes.push(format!("source-{}", code(path, "Error::source", source)));
    }
    // The option that raises a limit, as a field or as the last argument of a helper.
    for rest in following(&text, "option: \"--").chain(following(&text, ", \"--")) {
        codes.push(rest.split('"').next().unwrap().to_owned());
    }
    codes
}

/// A file's text without comments and tests.
fn program(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let program = text.split(UNIT_TESTS).next().unwrap();
    program.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// What stands behind each `mark`.
fn following<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> + Clone {
    text.match_indices(mark).map(move |(at, _)| text[at + mark.len()..].trim_start())
}

/// What stands for the code in `fields`, if they build a value (a pattern leaves some out, a definition begins with `pub`).
fn built_with_code(fields: &str) -> Option<&str> {
    let value = fields.strip_prefix("code")?;
    let is_pattern = value.split('}').next()?.trim_end().ends_with("..");
    (!is_pattern).then(|| value.strip_prefix(':').unwrap_or(value))
}

/// The string literal that `text` begins with.
fn code<'a>(path: &Path, what: &str, text: &'a str) -> &'a str {
    let literal = text.trim_start().strip_prefix('"').and_then(|text| text.split('"').next());
    literal.unwrap_or_else(|| panic!("{}: the code of a {what} must be a string literal", path.display()))
}

/// The format that an argument names: as a literal, by the constant `FORMAT` of the file or its module, or by a variable.
fn format_name(path: &Path, argument: &str) -> String {
    let argument = argument.trim();
    if let Some(literal) = argument.strip_prefix('"') {
        return literal.trim_end_matches('"').to_owned();
    }
    if argument.rsplit("::").next() != Some("FORMAT") {
        return ANY_FORMAT.to_owned();
    }
    let module = path.parent().unwrap();
    let places = [path.to_owned(), module.join("mod.rs"), module.with_extension("rs")];
    let constant = places.iter().filter(|place| place.exists()).find_map(|place| {
        let text = fs::read_to_string(place).unwrap();
        let value = following(&text, "const FORMAT: &str = \"").next()?;
        Some(value.split('"').next().unwrap().to_owned())
    });
    constant.unwrap_or_else(|| ANY_FORMAT.to_owned())
}
