//! `diskferry list`.

use diskferry::Progress;
use diskferry_remote::oci::stock::{Facts, Row};
use serde_json::{Value, json};

use crate::args::ListArgs;
use crate::exit::Failure;
use crate::size::iec;
use crate::{columns, json, output, signals};

/// Prints what images a store has.
pub fn run(args: ListArgs) -> Result<(), Failure> {
    let progress = Progress::default();
    signals::watch(&progress)?;
    let rows = args.dealing.during(&args.store.store, &progress, |stock| stock.list(&progress))?;
    let text = if args.store.json {
        json::store(&args.store.store.to_string(), rows.iter().map(object))
    } else {
        table(&rows)
    };
    output::result(&text)
}

fn object(row: &Row) -> Value {
    let none = Facts::default();
    let facts = row.facts.as_ref().unwrap_or(&none);
    let mut object = json!({
        "name": row.name(), "repository": row.repository, "tag": row.tag, "digest": row.digest,
        "format": facts.format, "stored-size": facts.stored_size, "unpacked-size": facts.unpacked_size,
        "cdrom": facts.cdrom(), "created": facts.created, "layers-size": row.facts.is_ok().then_some(facts.layers),
    });
    if let (Some(error), Some(object)) = (row.error(), object.as_object_mut()) {
        object.insert("error".into(), json!({ "code": error.code(), "message": error.to_string() }));
    }
    object
}

fn table(rows: &[Row]) -> String {
    let unknown = || "-".to_owned();
    let size = |size: Option<u64>| size.map_or_else(unknown, iec);
    let mut lines =
        vec![["NAME", "FORMAT", "STORED", "UNPACKED", "CDROM", "CREATED", "DIGEST"].map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        let digest = row.digest.clone().unwrap_or_else(unknown);
        match &row.facts {
            Ok(facts) => vec![
                row.name(),
                facts.format.clone().unwrap_or_else(unknown),
                size(facts.stored_size),
                size(facts.unpacked_size),
                facts.cdrom().map_or_else(unknown, |cdrom| if cdrom { "yes" } else { "no" }.into()),
                facts.created.clone().unwrap_or_else(unknown),
                digest,
            ],
            Err(error) => {
                vec![row.name(), error.code(), unknown(), unknown(), unknown(), unknown(), digest]
            }
        }
    }));
    columns::text(&lines)
}
