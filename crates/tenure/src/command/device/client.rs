//! `tenure device status|lun-add|lun-remove|lun-resize`: asks a device over its control socket ([`super::control`]).
//!
//! Rates are made here, of two answers: the device only counts.

use crate::cli::{DeviceControlArgs, DeviceStatusArgs, DeviceVerb, LunAddArgs, LunNumberArgs};
use crate::console::Console;
use crate::exit::{Exit, Failure};
use anyhow::Context;
use qmp::{CallError, Client, Object, Opening};
use serde_json::{Value, json};
use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

/// How long the device may take to answer.
const PROMPT: Duration = Duration::from_secs(30);
/// What commands are counted as.
const KINDS: [&str; 3] = ["read", "write", "other"];

/// Asks what `verb` says.
///
/// # Errors
/// If no device answers, or it refuses.
pub(super) fn run(verb: &DeviceVerb, console: &mut Console) -> Result<Exit, Failure> {
    match verb {
        DeviceVerb::Status(args) => status(args, console),
        DeviceVerb::LunAdd(args) => add(args, console),
        DeviceVerb::LunRemove(args) => remove(args, console),
        DeviceVerb::LunResize(args) => resize(args, console),
    }
}

fn connect(control: &DeviceControlArgs) -> Result<Client, Failure> {
    let path = &control.control;
    let client = Client::connect(path, &Opening::default(), Instant::now() + PROMPT);
    let what = || format!("no device answers on {}: does tenure device run, with --control?", path.display());
    Ok(client.with_context(what)?)
}

fn ask(client: &Client, command: &str, arguments: Value) -> Result<Value, Failure> {
    let arguments = match arguments {
        Value::Object(arguments) => arguments,
        _ => Object::new(),
    };
    client.execute(command, arguments, Instant::now() + PROMPT).map_err(|error| match error {
        CallError::Refused { error, .. } => Failure::new(Exit::Failed, error.desc),
        error => Failure::new(Exit::Failed, format!("the device: {error}")),
    })
}

fn add(args: &LunAddArgs, console: &mut Console) -> Result<Exit, Failure> {
    let mut arguments = json!({ "spec": args.spec });
    if let (Some(number), Value::Object(arguments)) = (args.lun, &mut arguments) {
        arguments.insert("lun".into(), number.into());
    }
    let added = ask(&connect(&args.control)?, "lun-add", arguments)?;
    let number = number(&added, "lun");
    if args.control.json {
        console.json(&json!({ "schema": 1, "lun": number }))?;
    } else {
        console.data(&format!("LUN {number}\n"))?;
    }
    Ok(Exit::Done)
}

fn remove(args: &LunNumberArgs, console: &mut Console) -> Result<Exit, Failure> {
    ask(&connect(&args.control)?, "lun-remove", json!({ "lun": args.lun }))?;
    if args.control.json {
        console.json(&json!({ "schema": 1, "lun": args.lun }))?;
    }
    Ok(Exit::Done)
}

fn resize(args: &LunNumberArgs, console: &mut Console) -> Result<Exit, Failure> {
    let told = ask(&connect(&args.control)?, "lun-resize", json!({ "lun": args.lun }))?;
    let grown = told.get("grown").and_then(Value::as_bool).unwrap_or_default();
    if args.control.json {
        console.json(&json!({ "schema": 1, "lun": args.lun, "grown": grown }))?;
    } else {
        console.data(if grown { "it has grown\n" } else { "it has the size that it had\n" })?;
    }
    Ok(Exit::Done)
}

fn status(args: &DeviceStatusArgs, console: &mut Console) -> Result<Exit, Failure> {
    let client = connect(&args.control)?;
    let query = || ask(&client, "query-device", Value::Null);
    let before = if args.interval > 0 {
        let before = query()?;
        thread::sleep(Duration::from_secs(args.interval));
        before
    } else {
        Value::Null
    };
    let mut now = query()?;
    if let Some(wanted) = &args.guest {
        let guests = now.get_mut("guests").and_then(Value::as_array_mut);
        guests.into_iter().for_each(|guests| guests.retain(|guest| text(guest, "name") == wanted));
        if list(&now, "guests").is_empty() {
            return Err(Failure::new(Exit::Failed, format!("the device has no guest {wanted}")));
        }
    }
    add_rates(&before, &mut now);
    if args.control.json {
        let document = [("schema".to_owned(), json!(1))].into_iter();
        let told = now.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone()));
        console.json(&document.chain(told).collect::<Object>())?;
    } else {
        console.data(&table(&now))?;
    }
    Ok(Exit::Done)
}

/// Gives every LUN of every guest its `rate`: by kind commands and bytes a second, and the mean latency in microseconds.
fn add_rates(before: &Value, now: &mut Value) {
    let guests = now.get_mut("guests").and_then(Value::as_array_mut).into_iter().flatten();
    for guest in guests {
        let earlier =
            list(before, "guests").iter().find(|one| text(one, "name") == text(guest, "name")).cloned();
        let luns = guest.get_mut("luns").and_then(Value::as_array_mut).into_iter().flatten();
        for lun in luns {
            let earlier = earlier.as_ref().map_or(&[][..], |guest| list(guest, "luns"));
            let known = |one: &&Value| {
                number(one, "lun") == number(lun, "lun") && number(one, "age") <= number(lun, "age")
            };
            let earlier = earlier.iter().find(known).cloned().unwrap_or_default();
            let rate = rate(&earlier, lun);
            lun.as_object_mut().into_iter().for_each(|lun| drop(lun.insert("rate".into(), rate.clone())));
        }
    }
}

/// Of the commands that ended in between, `earlier` being nothing for all there were.
fn rate(earlier: &Value, lun: &Value) -> Value {
    let milliseconds = number(lun, "age").saturating_sub(number(earlier, "age")).max(1);
    let of = |kind: &str| {
        let grown = |name: &str| {
            let count = |one: &Value| one.get(kind).map_or(0, |kind| number(kind, name));
            count(lun).saturating_sub(count(earlier))
        };
        let each_second = |count: u64| count.saturating_mul(1000) / milliseconds;
        let mean = grown("microseconds").checked_div(grown("commands")).unwrap_or(0);
        json!({ "commands": each_second(grown("commands")), "bytes": each_second(grown("bytes")), "microseconds": mean })
    };
    KINDS.iter().map(|kind| ((*kind).to_owned(), of(kind))).collect::<Object>().into()
}

fn table(told: &Value) -> String {
    let head = [
        "GUEST",
        "STATE",
        "LUN",
        "READS/s",
        "WRITES/s",
        "READ-KiB/s",
        "WRITE-KiB/s",
        "READ-us",
        "WRITE-us",
        "FAILED",
        "UNDER-WAY",
        "OLDEST-ms",
    ];
    let rows = list(told, "guests").iter().flat_map(rows);
    let lines: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let mut text = String::new();
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            // Names to the left, numbers to the right.
            let _ =
                if column < 2 { write!(text, "{cell:<width$}  ") } else { write!(text, "{cell:>width$}  ") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// A row for each LUN of a guest.
fn rows(guest: &Value) -> Vec<[String; 12]> {
    let row = |lun: &Value| {
        let rate = |kind: &str, name: &str| {
            lun.get("rate").and_then(|rate| rate.get(kind)).map_or(0, |kind| number(kind, name))
        };
        let under_way = lun.get("under-way").unwrap_or(&Value::Null);
        let numbers = [
            number(lun, "lun"),
            rate("read", "commands"),
            rate("write", "commands"),
            rate("read", "bytes") >> 10,
            rate("write", "bytes") >> 10,
            rate("read", "microseconds"),
            rate("write", "microseconds"),
            number(lun, "failed"),
            number(under_way, "commands"),
            number(under_way, "milliseconds"),
        ];
        let mut cells = numbers.map(|number| number.to_string()).into_iter();
        let (name, state) = (printable(text(guest, "name")), printable(text(guest, "state")));
        let mut fixed = [name, state].into_iter();
        std::array::from_fn(|_| fixed.next().or_else(|| cells.next()).unwrap_or_default())
    };
    list(guest, "luns").iter().map(row).collect()
}

fn number(of: &Value, name: &str) -> u64 {
    of.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn text<'a>(of: &'a Value, name: &str) -> &'a str {
    of.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// None may move the cursor.
fn printable(name: &str) -> String {
    name.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(age: u64, commands: u64) -> Value {
        let total = |factor: u64| {
            json!({ "commands": commands * factor, "failed": 0, "bytes": commands * factor * 4096,
                "microseconds": commands * factor * 50, "longest": 70 })
        };
        let lun = json!({ "lun": 3, "age": age, "failed": 1, "read": total(1), "write": total(2), "other": total(0),
            "under-way": { "commands": 4, "milliseconds": 9 } });
        json!({ "guests": [{ "name": "db1", "state": "running", "luns": [lun] }], "luns": [] })
    }

    #[test]
    fn rates_are_of_what_happened_in_between() {
        let mut now = told(12_000, 3000);
        add_rates(&told(10_000, 1000), &mut now);
        let rate = &now["guests"][0]["luns"][0]["rate"];
        assert_eq!(rate["read"], json!({ "commands": 1000, "bytes": 4_096_000, "microseconds": 50 }));
        assert_eq!(rate["write"]["commands"], 2000);
        assert_eq!(rate["other"], json!({ "commands": 0, "bytes": 0, "microseconds": 0 }));
        let table = table(&now);
        let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["db1", "running", "3", "1000", "2000", "4000", "8000", "50", "50", "1", "4", "9"]);
        let columns = |line: &str| line.find("LUN").or_else(|| line.find("  3 ")).unwrap();
        assert_eq!(columns(table.lines().next().unwrap()), columns(table.lines().nth(1).unwrap()), "{table}");
    }

    #[test]
    fn a_lun_that_was_added_meanwhile_and_one_that_was_not_there_are_counted_from_their_beginning() {
        for before in [told(10_000, 1000), Value::Null] {
            let mut now = told(500, 100);
            add_rates(&before, &mut now);
            assert_eq!(now["guests"][0]["luns"][0]["rate"]["read"]["commands"], 200);
        }
    }

    #[test]
    fn an_answer_of_anything_is_shown_without_moving_the_cursor() {
        let mut now = json!({ "guests": [{ "name": "a\u{1b}[2J", "luns": [{}, 7] }, 3] });
        add_rates(&Value::Null, &mut now);
        assert!(!table(&now).contains('\u{1b}'));
    }
}
