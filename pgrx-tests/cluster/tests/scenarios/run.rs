//! Plays scenarios on a real cluster and compares what they left in the trail.

use std::collections::HashMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write as _};

use audit_cluster_tests::{Cluster, eventually, server};
use postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::parse::{Scenario, Step, cells};

const NOT_RECORDED: &str = "-c audit.level=none -c client_min_messages=error";
const USUAL_EVENTS: &str = "database_name = 'app' AND class NOT IN ('SESSION', 'AUDIT')";

/// A cluster, and a connection that waits for the trail and reads it.
struct Stage {
    cluster: Cluster,
    home: Client,
    seq: i64,
}

#[derive(Default)]
struct Report {
    wrong: String,
    pending: String,
    steps: usize,
}

/// Plays the scenarios of a file, each in a fresh database; panics with all differences.
/// `AUDIT_SCENARIO=5,8` plays only those numbers.
pub fn all(file: &str, scenarios: &[Scenario]) {
    let only = env::var("AUDIT_SCENARIO").unwrap_or_default();
    let chosen =
        |s: &&Scenario| only.is_empty() || only.split(',').any(|n| n == s.number.to_string());
    let cluster = Cluster::start();
    let config = cluster.config("postgres", "postgres");
    let mut stage = Stage {
        home: connect(config.clone().options(NOT_RECORDED)).expect("the home"),
        cluster,
        seq: 0,
    };
    let mut report = Report::default();
    for scenario in scenarios.iter().filter(chosen) {
        if scenario.out_of_scope.is_none() {
            stage.play(scenario, &mut report);
        }
    }
    // Past the test harness, which keeps what a passing test prints to itself.
    let _ = io::stderr().write_all(report.pending.as_bytes());
    let _ = writeln!(io::stderr(), "{file}: {} steps", report.steps);
    assert!(report.wrong.is_empty(), "{file}\n{}", report.wrong);
}

fn connect(config: &Config) -> Result<Client, postgres::Error> {
    config.connect(NoTls)
}

impl Stage {
    fn play(&mut self, scenario: &Scenario, report: &mut Report) {
        self.prepare(scenario);
        let mut sessions = HashMap::new();
        for step in &scenario.steps {
            report.steps += 1;
            let error = self.perform(step, &mut sessions);
            let rows = self.recorded(scenario);
            let difference = compare(step, error.as_deref(), &rows);
            let first = step.text.lines().next().unwrap_or("");
            let place = format!("{} (line {}) {first}", scenario.number, step.line);
            match (&step.pending, difference) {
                (None, Some(difference)) => {
                    let title = &scenario.title;
                    let _ = write!(report.wrong, "\n=== {place}\n    [{title}]\n{difference}");
                }
                (Some(reason), Some(difference)) => {
                    let _ = writeln!(report.pending, "pending {place}\n  {reason}:\n{difference}");
                }
                (Some(reason), None) => {
                    let _ = write!(
                        report.wrong,
                        "\n=== {place}\n  passes now, take the mark away: {reason}\n"
                    );
                }
                (None, None) => {}
            }
        }
        drop(sessions);
    }

    /// An empty database, the settings and what the scenario presupposes.
    fn prepare(&mut self, scenario: &Scenario) {
        let mut clean = String::from("DROP DATABASE app WITH (FORCE); CREATE DATABASE app;\n");
        let roles = self.cluster.query(
            "postgres",
            "SELECT quote_ident(rolname) FROM pg_roles
             WHERE rolname !~ '^(pg_|audit_reader$|audit_admin$|postgres$)'",
        );
        for role in roles {
            let _ = writeln!(clean, "DROP OWNED BY {role}; DROP ROLE {role};");
        }
        let mut settings = String::new();
        for (role, assignment) in &scenario.settings {
            let whom = match role.as_str() {
                "" => "DATABASE app".to_owned(),
                role => format!("ROLE {role}"),
            };
            let mut assignment = assignment.clone();
            if server().major < 16 {
                assignment = assignment.replace("debug_parallel_query", "force_parallel_mode");
            }
            let _ = writeln!(settings, "ALTER {whom} SET {assignment};");
        }
        self.script("postgres", &clean);
        self.script("app", &scenario.setup);
        self.script("postgres", &settings);
        self.host_based_access(&scenario.hba);
        self.seq = self.flush();
    }

    fn script(&self, database: &str, script: &str) {
        let psql = self
            .cluster
            .psql()
            .db(database)
            .env("PGOPTIONS", NOT_RECORDED);
        psql.arg("-v").arg("ON_ERROR_STOP=1").run(script).ok();
    }

    fn host_based_access(&self, lines: &[String]) {
        let file = self.cluster.data_dir().join("pg_hba.conf");
        let before = fs::read_to_string(&file).expect("pg_hba.conf");
        let rest = before.rsplit("# end of the scenario's\n").next();
        let mut after = lines.join("\n");
        after.push_str("\n# end of the scenario's\n");
        after.push_str(rest.expect("a rest"));
        if !lines.is_empty() || before.starts_with(|c| c != '#') {
            fs::write(&file, after).expect("pg_hba.conf");
            self.cluster.reload();
        }
    }

    /// Does what a step says; the SQLSTATE that the client got, `dead` if its session ended.
    /// (What the client still reads of a FATAL depends on who is faster.)
    fn perform(&mut self, step: &Step, sessions: &mut HashMap<String, Client>) -> Option<String> {
        let result = match step.actor.as_str() {
            "logon" => {
                let mut config: Config = step.text.parse().expect("a connection string");
                if config.get_hosts().is_empty() {
                    config.host_path(self.cluster.socket_dir());
                }
                connect(config.port(self.cluster.port())).map(|client| self.log_off(client))
            }
            "logoff" => {
                let client = sessions.remove(&step.text);
                self.log_off(client.unwrap_or_else(|| panic!("no session {}", step.text)));
                Ok(())
            }
            actor => {
                let client = sessions.entry(actor.to_owned()).or_insert_with(|| {
                    let name = actor.split('#').next().expect("a name");
                    let (user, database) = name.split_once('@').unwrap_or((name, "app"));
                    self.cluster.connect(user, database)
                });
                let result = send(client, step);
                // The server is ready again only after the abort; and dead if it says nothing.
                if client.simple_query("").is_err() {
                    sessions.remove(actor);
                    self.wait_for_ends(sessions);
                    return Some("dead".into());
                }
                result
            }
        };
        let error = result.err()?;
        match error.code() {
            Some(code) => Some(code.code().to_owned()),
            None => Some(format!("{error:?}")),
        }
    }

    /// Waits until the database has no other sessions than these.
    fn wait_for_ends(&mut self, sessions: &HashMap<String, Client>) {
        let living = sessions.keys().filter(|name| !name.contains('@')).count();
        eventually("a dead session is gone", || {
            let row = self.home.query_one(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = 'app' AND backend_type = 'client backend'",
                &[],
            );
            row.expect("the home answers").get::<_, i64>(0) == living as i64
        });
    }

    /// Ends a session and waits for the end of its process.
    fn log_off(&self, mut client: Client) {
        let Ok(row) = client.query_one("SELECT pg_backend_pid()", &[]) else {
            return;
        };
        let pid: i32 = row.get(0);
        drop(client);
        eventually("a session ends", || {
            !audit_cluster_tests::process_exists(pid as u32)
        });
    }

    /// What has been recorded since the last call.
    fn recorded(&mut self, scenario: &Scenario) -> Vec<String> {
        let seq = self.flush();
        let columns: Vec<_> = scenario.columns.iter().map(|c| column(c)).collect();
        let query = format!(
            "SELECT {} FROM audit.log WHERE seq > {} AND seq <= {seq} AND ({})
             ORDER BY statement_id, substatement_id, seq",
            columns.join(", "),
            self.seq,
            scenario.filter.as_deref().unwrap_or(USUAL_EVENTS),
        );
        self.seq = seq;
        let messages = self.home.simple_query(&query);
        let messages = messages.unwrap_or_else(|e| panic!("{query}\n{e:?}"));
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                let fields = (0..row.len()).map(|i| row.get(i).unwrap_or("~"));
                Some(cells(&fields.collect::<Vec<_>>().join(" | ")))
            }
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }

    fn flush(&mut self) -> i64 {
        let row = self.home.query_one("SELECT audit.flush()", &[]);
        row.expect("flushes").get(0)
    }
}

/// A statement's text is compared on one line, without the `;` that the client put after it;
/// relations in the order of their names.
fn column(name: &str) -> String {
    match name {
        "statement" => r"regexp_replace(rtrim(statement, E'; \n'), '\s+', ' ', 'g')".into(),
        "relations" => "(SELECT array_agg(r ORDER BY r) FROM unnest(relations) r)".into(),
        other => other.into(),
    }
}

/// Sends one step's text as it stands, as one simple query; COPY through its own protocol.
fn send(client: &mut Client, step: &Step) -> Result<(), postgres::Error> {
    let sql = step.text.as_str();
    if !step.input.is_empty() {
        let mut writer = client.copy_in(sql)?;
        for line in &step.input {
            // What the server has refused shows in finish().
            let _ = writer.write_all(format!("{line}\n").as_bytes());
        }
        return writer.finish().map(drop);
    }
    if sql.to_ascii_lowercase().contains("to stdout") {
        let mut reader = client.copy_out(sql)?;
        let read = reader.read_to_end(&mut Vec::new());
        return match read.map_err(|e| e.downcast::<postgres::Error>()) {
            Err(Ok(error)) => Err(error),
            other => {
                other.expect("copies");
                Ok(())
            }
        };
    }
    client.simple_query(sql).map(drop)
}

/// The differences between a step and what came of it, as lines to print.
fn compare(step: &Step, error: Option<&str>, rows: &[String]) -> Option<String> {
    let expected = step.rows.as_deref().expect("checked");
    if step.error.as_deref() == error && expected == rows {
        return None;
    }
    let mut text = String::new();
    if step.error.as_deref() != error {
        let said = |e: Option<&str>| e.unwrap_or("no error").to_owned();
        let (want, got) = (said(step.error.as_deref()), said(error));
        let _ = writeln!(text, "  the client got {got}, expected {want}");
    }
    let mut missing: Vec<&String> = expected.iter().collect();
    for row in rows {
        match missing.iter().position(|m| *m == row) {
            Some(at) => {
                missing.remove(at);
                let _ = writeln!(text, "      {row}");
            }
            None => {
                let _ = writeln!(text, "  got {row}");
            }
        }
    }
    for row in missing {
        let _ = writeln!(text, "  not {row}");
    }
    Some(text)
}
