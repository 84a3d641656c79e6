//! Declares to cargo which other files the sqlx macros read, so that an incremental build notices new
//! migrations and statement metadata.

fn main() {
    for path in ["migrations", "sqlx-data", "config/default.toml"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in ["SQLX_OFFLINE", "SQLX_OFFLINE_DIR", "DATABASE_URL"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
}
