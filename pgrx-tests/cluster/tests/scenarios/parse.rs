//! Reads a scenario file (format: README.md, beside this file).

/// `=== number title`, and what stands under it.
#[derive(Debug, Default)]
pub struct Scenario {
    pub number: u32,
    pub title: String,
    /// Why nothing is run here.
    pub out_of_scope: Option<String>,
    /// Role, or "" for the whole database, and an assignment (`audit.level = 'ddl'`).
    pub settings: Vec<(String, String)>,
    /// Lines for pg_hba.conf.
    pub hba: Vec<String>,
    pub setup: String,
    /// What a row of the trail is compared by; SQL over audit.log.
    pub columns: Vec<String>,
    /// Which events count.
    pub filter: Option<String>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Default)]
pub struct Step {
    /// Line of the file, for messages.
    pub line: usize,
    /// Why its expectation isn't met yet.
    pub pending: Option<String>,
    pub actor: String,
    pub text: String,
    /// What the client sends as COPY data.
    pub input: Vec<String>,
    /// The error that the client must get.
    pub error: Option<String>,
    /// `None` until a `=` line is read.
    pub rows: Option<Vec<String>>,
}

/// What an indented line goes on with.
enum Block {
    Nothing,
    Setup,
    Sql,
}

/// Panics with the line of the first mistake.
pub fn parse(text: &str) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    let mut block = Block::Nothing;
    let mut pending: Option<String> = None;
    for (at, line) in text.lines().enumerate() {
        let number = at + 1;
        let wrong = |what: &str| -> ! { panic!("line {number}: {what}: {line}") };
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        if let Some(heading) = line.strip_prefix("=== ") {
            let (number, title) = heading.split_once(' ').unwrap_or_else(|| wrong("no title"));
            scenarios.push(Scenario {
                number: number.parse().unwrap_or_else(|_| wrong("no number")),
                title: title.trim().into(),
                ..Scenario::default()
            });
            block = Block::Nothing;
            continue;
        }
        let Some(scenario) = scenarios.last_mut() else {
            wrong("before the first scenario");
        };
        if line.starts_with(' ') {
            match block {
                Block::Setup => {
                    scenario.setup.push_str(line.trim());
                    scenario.setup.push('\n');
                }
                Block::Sql => {
                    let step = scenario.steps.last_mut().expect("a step");
                    step.text.push('\n');
                    step.text.push_str(line.trim());
                }
                Block::Nothing => wrong("goes on with nothing"),
            }
            continue;
        }
        if let Some((actor, sql)) = prompt(line) {
            if scenario.columns.is_empty() {
                wrong("no columns yet");
            }
            scenario.steps.push(Step {
                line: number,
                pending: pending.take(),
                actor: actor.into(),
                text: sql.trim().into(),
                ..Step::default()
            });
            block = Block::Sql;
            continue;
        }
        block = Block::Nothing;
        if let Some(step) = scenario.steps.last_mut()
            && let Some((mark @ ("=" | "!" | "<"), rest)) = line.split_once(' ')
        {
            match mark {
                "=" => add_row(step, rest.trim()),
                "!" => step.error = Some(rest.trim().into()),
                _ => step.input.push(rest.into()),
            }
            continue;
        }
        let (word, rest) = line.split_once(':').unwrap_or_else(|| wrong("unreadable"));
        let rest = rest.trim();
        match word {
            "columns" => scenario.columns = rest.split('|').map(|c| c.trim().into()).collect(),
            "events" => scenario.filter = Some(rest.into()),
            "out of scope" => scenario.out_of_scope = Some(rest.into()),
            "hba" => scenario.hba.push(rest.into()),
            "pending" => pending = Some(rest.into()),
            "setup" => {
                scenario.setup.push_str(rest);
                scenario.setup.push('\n');
                block = Block::Setup;
            }
            _ => match word.strip_prefix("with") {
                Some(role) => scenario.settings.push((role.trim().into(), rest.into())),
                None => wrong("unknown word"),
            },
        }
    }
    scenarios.iter().for_each(check);
    scenarios
}

/// `name> statement`
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.split_once('>')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_#@".contains(c);
    (!name.is_empty() && name.chars().all(plain)).then_some((name, rest))
}

fn add_row(step: &mut Step, row: &str) {
    let rows = step.rows.get_or_insert_default();
    if row != "nothing" {
        rows.push(cells(row));
    }
}

/// A row with single blanks around its `|`.
pub fn cells(row: &str) -> String {
    let cells: Vec<_> = row.split('|').map(str::trim).collect();
    cells.join(" | ")
}

/// A scenario that could not fail is a mistake.
fn check(scenario: &Scenario) {
    let name = format!("{} {}", scenario.number, scenario.title);
    if scenario.out_of_scope.is_some() {
        assert!(
            scenario.steps.is_empty(),
            "{name}: out of scope, with steps"
        );
        return;
    }
    assert!(!scenario.steps.is_empty(), "{name}: no steps");
    for step in &scenario.steps {
        let line = step.line;
        let rows = step.rows.as_ref();
        let rows = rows.unwrap_or_else(|| panic!("line {line}: says not what is recorded"));
        for row in rows {
            let cells = row.split(" | ").count();
            assert!(
                cells >= scenario.columns.len(),
                "line {line}: {cells} cells for {} columns: {row}",
                scenario.columns.len()
            );
        }
    }
}

#[test]
fn a_scenario_is_read() {
    let text = "# remark\n=== 7 Title\nwith bob: audit.level = 'ddl'\nsetup: A;\n  B;\n\
                columns: class | rows\npending: why\nbob#2> SELECT\n  1;\n! 42501\n< data\n\
                = READ |  1\n\npostgres> SELECT 2;\n= nothing\n";
    let scenarios = parse(text);
    let scenario = &scenarios[0];
    assert_eq!((scenario.number, &*scenario.title), (7, "Title"));
    assert_eq!(scenario.setup, "A;\nB;\n");
    assert_eq!(
        scenario.settings,
        [("bob".to_owned(), "audit.level = 'ddl'".to_owned())]
    );
    let first = &scenario.steps[0];
    assert_eq!((&*first.actor, &*first.text), ("bob#2", "SELECT\n1;"));
    assert_eq!(first.pending.as_deref(), Some("why"));
    assert_eq!(first.error.as_deref(), Some("42501"));
    assert_eq!(first.input, ["data"]);
    assert_eq!(first.rows.as_deref().expect("rows"), ["READ | 1"]);
    assert_eq!(scenario.steps[1].rows.as_deref().expect("rows").len(), 0);
    assert_eq!(scenario.steps[1].pending, None);
}
