//! `backup`: copy the SQLite database while the service runs.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::access::JsonOption;
use super::interrupt::interrupted;
use super::migrate;
use super::output::answer;
use super::serve::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to create, readable by its owner only; it must not exist
    file: PathBuf,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    output: JsonOption,
}

pub(crate) async fn run(Args { file, settings, output }: Args) -> anyhow::Result<ExitCode> {
    let database = migrate::database(&settings.load()?);
    let bytes = tokio::select! {
        copied = database.backup(&file) => copied?,
        () = interrupted() => anyhow::bail!("interrupted; the incomplete copy was removed"),
    };
    let made = json!({"file": file.display().to_string(), "bytes": bytes});
    answer(output.json, &made, |_| {
        format!("copied {} to {} ({bytes} bytes)", migrate::name(&database), file.display())
    })
}
