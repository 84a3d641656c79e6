//! `complete-word`: candidates for the word that a shell completes: names and ids, which only the
//! service knows. The completion scripts call it. It answers within a second or not at all, and prints
//! no error, because a shell would show it in the middle of a command line.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, Args as _, Command, FromArgMatches as _};
use gateway_events::api::{JobsQuery, RejectionReason};
use gateway_events::client::api::Api;
use gateway_events::command::context::Contexts;
use gateway_events::event::Reason;
use tokio::time::timeout;

use super::access::ClientOptions;
use super::output::say;

/// A shell waits for the candidates.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Candidates, at most.
const MAX_CANDIDATES: usize = 1000;
/// The client options that have a value. `--insecure` has none.
const WITH_VALUE: [&str; 4] = ["--url", "--context", "--ca-file", "--token-file"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The words of the command line after the program, up to the one that is completed
    #[arg(last = true)]
    words: Vec<OsString>,
}

/// What the last word is the beginning of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gateway,
    EventType,
    Context,
    Job,
    AlertRule,
    AlertDestination,
    Label,
    LabelName,
    Reason,
    RejectionReason,
}

pub(crate) async fn run(args: Args, command: Command) -> anyhow::Result<ExitCode> {
    let words: Option<Vec<String>> =
        args.words.into_iter().map(|word| word.into_string().ok()).collect();
    let (words, typed) = rejoined(words.unwrap_or_default());
    let Some(kind) = kind(command, &words) else { return Ok(ExitCode::SUCCESS) };
    let found = timeout(TIMEOUT, candidates(kind, &words)).await;
    let found = found.ok().and_then(Result::ok).unwrap_or_default();
    let last = words.last().map(String::as_str).unwrap_or_default();
    // Of `--gateway=b` only what follows is completed.
    let (start, begun) = match last.split_once('=') {
        Some((option, value)) if option.starts_with("--") => (0, value),
        _ => (typed, last),
    };
    for name in found.iter().filter(|name| name.starts_with(begun) && is_plain(name)) {
        say(name.get(start..).unwrap_or_default())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Joins what bash splits at `=`: `env`, `=`, `pr` is one word. Also returns the length of its part
/// before the last piece, which the shell keeps.
fn rejoined(words: Vec<String>) -> (Vec<String>, usize) {
    let (mut joined, mut kept): (Vec<String>, usize) = (Vec::new(), 0);
    let mut follows = false;
    for word in words {
        let is_equals = word == "=";
        if (is_equals || follows) && !joined.is_empty() {
            let last = joined.last_mut().map(|last| {
                let before = last.len();
                last.push_str(&word);
                if is_equals { before + 1 } else { before }
            });
            kept = last.unwrap_or_default();
        } else {
            joined.push(word);
            kept = 0;
        }
        follows = is_equals;
    }
    (joined, kept)
}

/// What the last word is; `None` if it is nothing that the service knows.
fn kind(mut command: Command, words: &[String]) -> Option<Kind> {
    command.build();
    let (last, before) = words.split_last()?;
    let mut at = &command;
    let mut path: Vec<&str> = Vec::new();
    let mut position = 1;
    let mut open: Option<&Arg> = None;
    for word in before {
        if open.take().is_some() {
            continue;
        }
        if let Some(name) = word.strip_prefix("--") {
            let option = option(at, name);
            open = option.filter(|_| !name.contains('='));
        } else if word.starts_with('-') && word.len() > 1 {
            let short = word.chars().nth(1);
            open = at
                .get_arguments()
                .find(|arg| arg.get_short() == short && takes_value(arg))
                .filter(|_| word.chars().count() == 2);
        } else if let Some(next) = at.find_subcommand(word) {
            path.push(next.get_name());
            (at, position) = (next, 1);
        } else {
            position += 1;
        }
    }
    let arg = match (open, last.strip_prefix("--")) {
        (Some(arg), _) => arg,
        (None, Some(name)) if name.contains('=') => option(at, name)?,
        (None, _) if last.starts_with('-') => return None,
        (None, _) => positional(at, position)?,
    };
    of(&path, arg.get_id().as_str())
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// The option of a word without its hyphens.
fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.split('=').next().unwrap_or_default();
    command.get_arguments().find(|arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        takes_value(arg) && (arg.get_long() == Some(name) || aliases.contains(&name))
    })
}

/// The argument at this place, counted from 1; the last one may take several values.
fn positional(command: &Command, place: usize) -> Option<&Arg> {
    let found = command.get_positionals().find(|arg| arg.get_index() == Some(place));
    found.or_else(|| {
        let last = command.get_positionals().last()?;
        last.get_num_args().filter(|count| count.max_values() > 1)?;
        Some(last)
    })
}

/// What an argument of a command names.
fn of(path: &[&str], id: &str) -> Option<Kind> {
    Some(match (path, id) {
        (["context", "use" | "show" | "delete" | "set"], "name") | (_, "context") => Kind::Context,
        (["event-type", ..], "name") | (_, "event_type" | "types") => Kind::EventType,
        (["job", ..], "id") => Kind::Job,
        (["alert", "rule", ..], "id") => Kind::AlertRule,
        (["alert", "destination", ..], "id") => Kind::AlertDestination,
        (["inbox", ..], "reason") => Kind::RejectionReason,
        (["delivery", ..], "reason") => Kind::Reason,
        (["gateway", "register"], _) => return None,
        (_, "gateway" | "gateways") | (["why"], "what") => Kind::Gateway,
        (_, "labels") => Kind::Label,
        (_, "removed") => Kind::LabelName,
        _ => return None,
    })
}

/// All names of a kind, up to a limit.
async fn candidates(kind: Kind, words: &[String]) -> anyhow::Result<Vec<String>> {
    Ok(match kind {
        Kind::Context => Contexts::load()?.contexts.into_keys().collect(),
        Kind::Reason => Reason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect(),
        Kind::RejectionReason => {
            RejectionReason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect()
        }
        Kind::EventType => {
            let types = api(words)?.event_types().await?.list;
            types.into_iter().map(|info| info.name.clone()).collect()
        }
        Kind::Job => {
            let jobs = api(words)?.jobs(&JobsQuery::default(), MAX_CANDIDATES).await?.list;
            jobs.into_iter().map(|job| job.id.to_string()).collect()
        }
        Kind::AlertRule => {
            let rules = api(words)?.alert_rules().await?.list;
            rules.into_iter().take(MAX_CANDIDATES).map(|rule| rule.id).collect()
        }
        Kind::AlertDestination => {
            let destinations = api(words)?.alert_destinations().await?.list;
            destinations.into_iter().map(|destination| destination.id).collect()
        }
        Kind::Gateway => gateways(words).await?.into_iter().map(|(name, _)| name).collect(),
        Kind::Label => labels(words, |name, value| format!("{name}={value}")).await?,
        Kind::LabelName => labels(words, |name, _| name.to_owned()).await?,
    })
}

type Labels = std::collections::BTreeMap<String, String>;

async fn gateways(words: &[String]) -> anyhow::Result<Vec<(String, Labels)>> {
    let query = gateway_events::api::GatewaysQuery::default();
    let found = api(words)?.matching_gateways(&query, MAX_CANDIDATES).await?;
    Ok(found.into_iter().map(|gateway| (gateway.name, gateway.labels)).collect())
}

/// The labels of gateways, each once.
async fn labels(
    words: &[String],
    shown: impl Fn(&str, &str) -> String,
) -> anyhow::Result<Vec<String>> {
    let mut all = std::collections::BTreeSet::new();
    for (_, labels) in gateways(words).await? {
        all.extend(labels.iter().map(|(name, value)| shown(name, value)));
    }
    Ok(all.into_iter().take(MAX_CANDIDATES).collect())
}

/// A client of the service that the command line names: by its options, the environment, or a
/// context. A token is never read from standard input, which is the shell's.
fn api(words: &[String]) -> anyhow::Result<Api> {
    let mut own = vec!["gateway-events".to_owned()];
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let name = word.split('=').next().unwrap_or_default();
        if word == "--insecure" {
            own.push(word.clone());
        } else if WITH_VALUE.contains(&name) {
            own.push(word.clone());
            if !word.contains('=') {
                own.extend(words.next().cloned());
            }
        }
    }
    let is_input = own.iter().any(|word| word == "-" || word == "--token-file=-");
    anyhow::ensure!(!is_input, "the token is on standard input");
    let command = ClientOptions::augment_args(Command::new("gateway-events"));
    let matches = command.try_get_matches_from(own)?;
    ClientOptions::from_arg_matches(&matches)?.api()
}

/// Whether a name can be typed as one word of a shell, and has nothing that a terminal interprets.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(char::is_control)
}

/// What follows the static script of a shell, so that it also asks for names.
pub(crate) const fn script(shell: clap_complete::Shell) -> &'static str {
    match shell {
        clap_complete::Shell::Bash => BASH,
        clap_complete::Shell::Zsh => ZSH,
        clap_complete::Shell::Fish => FISH,
        _ => "",
    }
}

const BASH: &str = r#"
_gateway-events_names() {
    _gateway__events "$@"
    local name
    while IFS= read -r name; do
        COMPREPLY+=("$(printf '%q' "$name")")
    done < <("${COMP_WORDS[0]}" complete-word -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _gateway-events_names -o bashdefault -o default gateway-events
"#;

const ZSH: &str = r#"
_gateway-events_names() {
    local -a names
    names=("${(@f)$(${words[1]} complete-word -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    names=("${(@)names:#}")
    (( ${#names} )) && compadd -a names
    _gateway-events "$@"
}
compdef _gateway-events_names gateway-events
"#;

const FISH: &str = r"
complete -c gateway-events -f -a '(command gateway-events complete-word -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_bash_splits_are_joined() {
        let joined =
            |words: &[&str]| rejoined(words.iter().map(|word| (*word).to_owned()).collect());
        let owned =
            |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(joined(&["a", "b"]), (owned(&["a", "b"]), 0));
        assert_eq!(joined(&["a", "env", "=", "pr"]), (owned(&["a", "env=pr"]), 4));
        assert_eq!(joined(&["a", "env", "="]), (owned(&["a", "env="]), 4));
        assert_eq!(joined(&["a", "env=pr"]), (owned(&["a", "env=pr"]), 0));
    }
}
