//! `audit-verify`: checks what audit_ext wrote, without a database.

mod events;
mod proofs;
mod ring;

use std::io::{BufRead, BufReader};
use std::process::ExitCode;

const USAGE: &str = "\
usage: audit-verify checkpoint FILE [--key KEY]
       audit-verify inclusion PROOF [--event FILE] [--checkpoint FILE] [--key KEY]
       audit-verify consistency PROOF [--old FILE] [--new FILE] [--key KEY]
       audit-verify events FILE [--checkpoint FILE] [--key KEY]
       audit-verify ring FILE

checkpoint   prints a signed note (audit.checkpoint(), pg_audit/checkpoints: the last one)
inclusion    checks the JSON of audit.inclusion_proof(): against the event's line of
             audit.evidence(), against a checkpoint of the same size
consistency  checks the JSON of audit.consistency_proof(): against checkpoints of its two sizes
events       prints the leaf hash of each line of audit.evidence(); lines 1 to n give the root,
             which is held against a checkpoint of size n
ring         prints the records of a ring file

FILE is - for standard input. KEY is the text of a public key, <name>+<id>+<base64>, from a KEY
event; without it no signature is checked. Exit code: 0 all holds, 1 something doesn't, 2 usage.";

/// What was given besides the command and its file.
#[derive(Default)]
pub struct Options {
    pub key: Option<String>,
    pub event: Option<String>,
    pub checkpoint: Option<String>,
    pub old: Option<String>,
    pub new: Option<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if matches!(arguments.first().map(String::as_str), Some("--help" | "-h")) {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some((command, file, options)) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let done = match command.as_str() {
        "events" => events::events(&file, &options),
        "ring" => read(&file).and_then(|bytes| ring::ring(&bytes)),
        "checkpoint" => read(&file).and_then(|bytes| proofs::checkpoint(&bytes, &options)),
        "inclusion" => read(&file).and_then(|bytes| proofs::inclusion(&bytes, &options)),
        _ => read(&file).and_then(|bytes| proofs::consistency(&bytes, &options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("audit-verify: {file}: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Command, file and options; `None` where they make no sense.
fn parse(arguments: &[String]) -> Option<(String, String, Options)> {
    let [command, file, rest @ ..] = arguments else {
        return None;
    };
    let allowed: &[&str] = match command.as_str() {
        "ring" => &[],
        "checkpoint" => &["--key"],
        "inclusion" => &["--event", "--checkpoint", "--key"],
        "consistency" => &["--old", "--new", "--key"],
        "events" => &["--checkpoint", "--key"],
        _ => return None,
    };
    let mut options = Options::default();
    for pair in rest.chunks(2) {
        let [name, value] = pair else { return None };
        if !allowed.contains(&name.as_str()) {
            return None;
        }
        let option = match name.as_str() {
            "--key" => &mut options.key,
            "--event" => &mut options.event,
            "--checkpoint" => &mut options.checkpoint,
            "--old" => &mut options.old,
            _ => &mut options.new,
        };
        *option = Some(value.clone());
    }
    Some((command.clone(), file.clone(), options))
}

/// A file, or standard input.
pub fn open(file: &str) -> Result<Box<dyn BufRead>, String> {
    if file == "-" {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = std::fs::File::open(file).map_err(|e| e.to_string())?;
    Ok(Box::new(BufReader::with_capacity(1 << 20, file)))
}

/// All of its bytes.
pub fn read(file: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    open(file)?
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    Ok(bytes)
}
