//! Settings: what a flag, a variable or a line of a file says, under one name.
//!
//! Each setting stands once in a table, and everything else follows from that: the flags, the variables that are looked at, the keys of the
//! file and the table in docs/worker.md. A flag goes before a variable, and a variable before the file. What is secret has no flag, since
//! everybody on a machine can read what is typed: it comes from a variable, or from a file that is named.

pub mod parse;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgMatches, Command};
use diskferry_remote::own_file;

/// What may be said of one setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anybody may see it.
    Open,
    /// Nobody may: it is never shown, and the flag and the key, which have `-file` behind the name, name a file that it is in.
    Secret,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its flag and its key in the file.
    pub name: &'static str,
    /// Variables, the first that is set and not empty decides.
    pub variables: &'static [&'static str],
    /// What the value is, as in `FILE`.
    pub value: &'static str,
    /// What it is if nobody says, for people; empty for nothing.
    pub default: &'static str,
    /// Whether it may be seen.
    pub kind: Kind,
    /// What it means.
    pub what: &'static str,
}

/// Settings about one thing.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What they are about.
    pub title: &'static str,
    /// The settings.
    pub settings: &'static [Setting],
}

/// The setting that names the file of settings; it is in no table, since it is in no file.
const CONFIG: &str = "config";

/// Its variable.
const CONFIG_VARIABLE: &str = "DISKFERRY_CONFIG";

/// Largest file of settings, or of a secret, in bytes.
const MOST: u64 = 1 << 20;

/// Why settings cannot be meant: it names the flag, the variable or the key, and shows nothing that is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable(pub String);

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The settings of one run.
#[derive(Debug, Default)]
pub struct Values {
    found: BTreeMap<&'static str, Found>,
}

/// A value, and where it is from.
struct Found {
    value: String,
    origin: String,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It may be secret.
        f.write_str(&self.origin)
    }
}

impl Setting {
    /// The name of its flag, and of its key in the file.
    pub fn flag(&self) -> String {
        if self.kind == Kind::Secret { format!("{}-file", self.name) } else { self.name.to_owned() }
    }
}

/// `command` with a flag for each setting of `groups`.
pub fn command(mut command: Command, groups: &[Group]) -> Command {
    let config = Arg::new(CONFIG).long(CONFIG).value_name("FILE");
    command = command
        .arg(config.help(format!("File of settings, in TOML, keys as the flags are called [{CONFIG_VARIABLE}]")));
    for group in groups {
        for setting in group.settings {
            // On a terminal the marks of the page are in the way.
            let mut help = setting.what.replace('`', "");
            if !setting.default.is_empty() {
                let _ = write!(help, " [default: {}]", setting.default);
            }
            if !setting.variables.is_empty() {
                let _ = write!(help, " [{}]", setting.variables.join(", "));
            }
            let value = if setting.kind == Kind::Secret { "FILE" } else { setting.value };
            let arg = Arg::new(setting.name).long(setting.flag()).value_name(value).help(help);
            command = command.arg(arg.help_heading(group.title));
        }
    }
    // A page that names each of them in its first line says nothing.
    let usage = format!("diskferry-worker {} [OPTIONS]", command.get_name());
    command.override_usage(usage)
}

/// Why arguments were not understood, on one line. It may be read by many: what is no flag is not repeated.
pub fn refused(mut refusal: clap::Error) -> Unusable {
    if let Some(ContextValue::String(typed)) = refusal.get(ContextKind::InvalidArg)
        && !typed.starts_with('-')
    {
        refusal.insert(ContextKind::InvalidArg, ContextValue::String("…".into()));
    }
    let text = refusal.to_string();
    let line = text.lines().next().unwrap_or_default();
    Unusable(line.strip_prefix("error: ").unwrap_or(line).to_owned())
}

/// The settings of `groups` as a page for people.
pub fn markdown(groups: &[Group]) -> String {
    let mut text = String::new();
    for group in groups {
        let _ = write!(
            text,
            "### {}\n\n| flag and key | variables | default | meaning |\n| --- | --- | --- | --- |\n",
            group.title
        );
        for setting in group.settings {
            let variables: Vec<_> = setting.variables.iter().map(|name| format!("`{name}`")).collect();
            let (flag, variables) = (setting.flag(), variables.join(", "));
            let value = if setting.kind == Kind::Secret { "FILE" } else { setting.value };
            let _ = writeln!(text, "| `{flag}` {value} | {variables} | {} | {} |", setting.default, setting.what);
        }
        text.push('\n');
    }
    text
}

impl Values {
    /// Gathers what was typed, what the environment has (`variable` gives the value of a variable), and what stands in the file that one of
    /// the two names. An empty variable is one that is not set. With the first thing that cannot be understood: the rest is there all the
    /// same, for who has to be told of it.
    pub fn gather(
        groups: &[Group],
        typed: &ArgMatches,
        variable: impl Fn(&str) -> Option<String>,
    ) -> (Self, Option<Unusable>) {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let config = typed.get_one::<String>(CONFIG).cloned().or_else(|| set(CONFIG_VARIABLE));
        let (file, mut refused) = config.map_or_else(Default::default, |path| settings_in(Path::new(&path), groups));
        let mut found = BTreeMap::new();
        for setting in groups.iter().flat_map(|group| group.settings) {
            let flag = setting.flag();
            let is_secret = setting.kind == Kind::Secret;
            let named = |path: String, origin: String| {
                let value = if is_secret { secret(Path::new(&path), &origin)? } else { path };
                Ok(Found { value, origin })
            };
            let known = if let Some(value) = typed.get_one::<String>(setting.name) {
                named(value.clone(), format!("--{flag}"))
            } else if let Some((name, value)) = setting.variables.iter().find_map(|name| Some((*name, set(name)?))) {
                Ok(Found { value, origin: name.to_owned() })
            } else if let Some((value, origin)) = file.get(flag.as_str()) {
                named(value.clone(), origin.clone())
            } else {
                continue;
            };
            match known {
                Ok(known) => {
                    found.insert(setting.name, known);
                }
                Err(unusable) => {
                    refused.get_or_insert(unusable);
                }
            }
        }
        (Self { found }, refused)
    }

    /// The value of a setting, as it was given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.found.get(name).map(|found| found.value.as_str())
    }

    /// The value of a setting as a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// Where the value of a setting is from, as people know it; else how it could be given.
    pub fn origin(&self, name: &str) -> String {
        self.found.get(name).map_or_else(|| format!("--{name}"), |found| found.origin.clone())
    }

    /// What `understand` makes of the value. An error names where the value is from; `understand` repeats nothing of it that could be secret.
    pub fn read<T, E: std::fmt::Display>(
        &self,
        name: &str,
        understand: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Unusable> {
        let understood = self
            .found
            .get(name)
            .map(|found| understand(found.value.trim()).map_err(|why| Unusable(format!("{}: {why}", found.origin))));
        understood.transpose()
    }

    /// Whether a setting is on; off if nobody says.
    pub fn is_on(&self, name: &str) -> Result<bool, Unusable> {
        Ok(self.read(name, parse::switch)?.unwrap_or(false))
    }

    /// That a setting cannot be as it is, for the reason `why`.
    pub fn unusable(&self, name: &str, why: impl std::fmt::Display) -> Unusable {
        Unusable(format!("{}: {why}", self.origin(name)))
    }
}

/// The keys of a file and their values, with where each is from.
type Keys = BTreeMap<String, (String, String)>;

/// What stands in the file at `path`, with the first thing that cannot be understood.
fn settings_in(path: &Path, groups: &[Group]) -> (Keys, Option<Unusable>) {
    let bad = |why: String| Unusable(format!("{}: {why}", path.display()));
    let (mut found, mut refused) = (Keys::new(), None);
    let table = match table_in(path) {
        Ok(table) => table,
        Err(why) => return (found, Some(bad(why))),
    };
    for (key, value) in table {
        if !groups.iter().flat_map(|group| group.settings).any(|setting| setting.flag() == key) {
            refused.get_or_insert_with(|| bad(format!("there is no setting {key:?}")));
            continue;
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Array(list) if list.iter().all(toml::Value::is_str) => {
                list.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
            }
            _ => {
                let why = format!("{key}: expected a text, a number, true, false or a list of texts");
                refused.get_or_insert_with(|| bad(why));
                continue;
            }
        };
        let origin = format!("{}: {key}", path.display());
        found.insert(key, (value, origin));
    }
    (found, refused)
}

fn table_in(path: &Path) -> Result<toml::Table, String> {
    let text = fs::metadata(path).and_then(|_| read(path)).map_err(|error| error.to_string())?;
    // The parser's own text would repeat the line.
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {} is not TOML", before.matches('\n').count() + 1)
    })
}

/// What stands in the file of a secret, without the end of its line.
fn secret(path: &Path, origin: &str) -> Result<String, Unusable> {
    let text = read(path).map_err(|error| Unusable(format!("{origin}: {}: {error}", path.display())))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn read(path: &Path) -> std::io::Result<String> {
    own_file::read_text(path, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &[Group] = &[Group {
        title: "Things",
        settings: &[
            Setting {
                name: "size",
                variables: &["NEW_SIZE", "OLD_SIZE"],
                value: "SIZE",
                default: "1Gi",
                kind: Kind::Open,
                what: "How large",
            },
            Setting {
                name: "key",
                variables: &["KEY"],
                value: "TEXT",
                default: "",
                kind: Kind::Secret,
                what: "What opens",
            },
            Setting { name: "on", variables: &[], value: "BOOL", default: "false", kind: Kind::Open, what: "Whether" },
        ],
    }];

    fn gather(args: &[&str], variables: &[(&str, &str)]) -> Result<Values, Unusable> {
        let all = std::iter::once(&"worker").chain(args);
        let typed = command(Command::new("worker"), GROUPS).try_get_matches_from(all).unwrap();
        let (values, refused) = Values::gather(GROUPS, &typed, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        });
        refused.map_or(Ok(values), Err)
    }

    #[test]
    fn a_flag_goes_before_a_variable_and_that_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (config, key) = (dir.path().join("worker.toml"), dir.path().join("key"));
        fs::write(&key, "hunter2\n").unwrap();
        fs::write(&config, format!("size = \"3Gi\"\non = true\nkey-file = {:?}\n", key.to_str().unwrap())).unwrap();
        let file = ("DISKFERRY_CONFIG", config.to_str().unwrap());

        let values = gather(&["--size", "1Gi"], &[("NEW_SIZE", "2Gi"), file]).unwrap();
        assert_eq!((values.text("size"), values.origin("size").as_str()), (Some("1Gi"), "--size"));
        let values = gather(&[], &[("OLD_SIZE", "4Gi"), ("NEW_SIZE", ""), file]).unwrap();
        assert_eq!((values.text("size"), values.origin("size").as_str()), (Some("4Gi"), "OLD_SIZE"));
        let values = gather(&[], &[file]).unwrap();
        assert_eq!(values.text("size"), Some("3Gi"));
        assert_eq!((values.text("key"), values.is_on("on")), (Some("hunter2"), Ok(true)));
        assert!(!format!("{values:?}").contains("hunter2"));
        let values = gather(&["--key-file", key.to_str().unwrap()], &[("KEY", "other")]).unwrap();
        assert_eq!(values.text("key"), Some("hunter2"));
        assert!(command(Command::new("x"), GROUPS).try_get_matches_from(["x", "--key", "hunter2"]).is_err());
    }

    #[test]
    fn what_is_not_understood_is_named_by_where_it_is_from() {
        let values = gather(&[], &[("OLD_SIZE", "many"), ("KEY", "hunter2")]).unwrap();
        let refused = values.read("size", parse::quantity).unwrap_err();
        assert!(refused.0.starts_with("OLD_SIZE: "), "{refused}");
        assert!(gather(&["--on", "perhaps"], &[]).unwrap().is_on("on").unwrap_err().0.starts_with("--on: "));
        let missing = gather(&["--key-file", "/nowhere/key"], &[]).unwrap_err();
        assert!(missing.0.starts_with("--key-file: /nowhere/key: No such file"), "{missing}");
    }

    #[test]
    fn a_file_of_settings_has_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.toml");
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            gather(&["--config", path.to_str().unwrap()], &[]).unwrap_err().0
        };
        assert!(refused("sise = 1\n").contains("there is no setting \"sise\""));
        assert!(refused("on = true\nkey-file = hunter2\n").contains("line 2 is not TOML"));
        assert!(!refused("on = true\nkey-file = hunter2\n").contains("hunter2"));
        assert!(refused("[size]\nx = 1\n").contains("size: expected"));
        assert!(gather(&["--config", "/nowhere"], &[]).unwrap_err().0.contains("/nowhere: No such file"));
    }

    #[test]
    fn a_file_of_settings_or_of_a_secret_has_a_mebibyte_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (flag, text) in [("--config", "size = \"3Gi\""), ("--key-file", "hunter2")] {
            let gather = |len: usize| {
                fs::write(&path, format!("{text}{}", "\n".repeat(len - text.len()))).unwrap();
                gather(&[flag, path.to_str().unwrap()], &[])
            };
            assert!(gather(1 << 20).is_ok(), "{flag}");
            let refused = gather((1 << 20) + 1).unwrap_err().0;
            assert!(refused.ends_with("/file: it has more than 1048576 bytes"), "{refused}");
        }
    }

    #[test]
    fn the_page_has_each_setting_once() {
        let page = markdown(GROUPS);
        assert!(page.contains("| `size` SIZE | `NEW_SIZE`, `OLD_SIZE` | 1Gi | How large |\n"), "{page}");
        assert!(page.contains("| `key-file` FILE | `KEY` |  | What opens |\n"), "{page}");
    }
}
