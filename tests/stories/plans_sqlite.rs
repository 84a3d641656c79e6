//! SQLite executes every statement along indexes that exist. If there is none that it finds good
//! enough, it builds one for the statement, each time, which takes as long as the table is large.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};

/// Indexes that SQLite builds for results of a part of a statement, which are small.
const ACCEPTED: [&str; 2] = [
    // The live connections of each node.
    "SEARCH c USING AUTOMATIC COVERING INDEX (node=?) LEFT-JOIN",
    // The deliveries of the events of one request.
    "SEARCH d USING AUTOMATIC COVERING INDEX (event=?) LEFT-JOIN",
];

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn no_statement_needs_an_index_that_does_not_exist() {
    let mut conn = SqliteConnection::connect("sqlite::memory:").await.expect("a database");
    for file in files("migrations/sqlite") {
        let migration = fs::read_to_string(file).expect("a migration");
        sqlx::raw_sql(AssertSqlSafe(migration)).execute(&mut conn).await.expect("migrated");
    }
    let mut count = 0;
    for file in files("sqlx-data") {
        let text = fs::read_to_string(file).expect("a statement");
        let statement: Value = serde_json::from_str(&text).expect("JSON");
        if statement["db_name"] != "SQLite" {
            continue;
        }
        count += 1;
        let query = statement["query"].as_str().expect("a text");
        let explained = AssertSqlSafe(format!("explain query plan {query}"));
        let steps = sqlx::query(explained).fetch_all(&mut conn).await.expect("a plan");
        for step in steps {
            let step: String = step.get("detail");
            let is_accepted = !step.contains("AUTOMATIC") || ACCEPTED.contains(&step.as_str());
            assert!(is_accepted, "{step}, of {query}");
        }
    }
    assert!(count > 100, "{count} statements");
}
