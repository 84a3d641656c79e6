//! Tells cargo what the sqlx macros read besides Rust files, so that a new
//! migration or new statement metadata is never missed by a warm build.

fn main() {
    for path in ["migrations", "sqlx-data", "config/default.toml"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in ["SQLX_OFFLINE", "SQLX_OFFLINE_DIR", "DATABASE_URL"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
}
