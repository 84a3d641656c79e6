//! What rules find. Facts are read once per evaluation of an organisation, whatever the number of
//! rules and gateways; only failures and addresses are read for each rule that asks for others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::rules::{Rule, is_allowed, is_of_gateways};
use crate::api::{AlertFinding, AlertGateway, AlertKind, AlertRuleDefinition};
use crate::clock::Timestamp;
use crate::event::{GatewayId, OrganisationKey};
use crate::store::{Alerts, ExpiringToken, FailureCount, NodeCondition, Result, WatchedGateway};

/// Gateways that a message names.
const NAMED: usize = 20;
/// Gateways, nodes and keys whose names a summary lists.
const LISTED: usize = 5;
/// The maximum number of groups of a rule. All others are one group together.
const MAX_GROUPS: usize = 200;
/// The group of those.
const OTHERS: &str = "…";
/// Rejected rows that are counted.
const MAX_REJECTED: i64 = 10_000;
const MAX_NODES: i64 = 1_000;
const MAX_TOKENS: i64 = 1_000;
const MAX_ADDRESSES: i64 = 20_000;
/// How long something that has expired is reported, and how recently an access token was used.
const WEEK: Duration = Duration::from_hours(7 * 24);
/// A node that has stored no heartbeat for this long is not looked at.
const NODES_SINCE: Duration = Duration::from_hours(7 * 24);

/// What a rule found in one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) count: u64,
    pub(super) gateways: Vec<AlertGateway>,
    pub(super) summary: String,
}

impl Finding {
    pub(super) fn shown(&self) -> AlertFinding {
        AlertFinding {
            summary: self.summary.clone(),
            count: self.count,
            gateways: self.gateways.iter().take(NAMED).cloned().collect(),
        }
    }
}

/// What a rule found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// By group.
    pub(super) groups: BTreeMap<String, Finding>,
    /// The groups of all gateways that the rule selects; `None` if it is not about gateways.
    pub(super) selected: Option<BTreeSet<String>>,
}

impl Findings {
    /// Whether the rule selects anything of a group.
    pub(super) fn is_selecting(&self, group: &str) -> bool {
        group == OTHERS || self.selected.as_ref().is_none_or(|groups| groups.contains(group))
    }

    /// Why a group is not among the findings, in a sentence.
    pub(super) fn why_clear(&self, rule: &Rule, group: &str) -> String {
        match (&self.selected, &rule.definition.group_by) {
            (Some(groups), _) if groups.is_empty() => {
                "No gateway matches the rule's selector any more.".to_owned()
            }
            (Some(groups), Some(label)) if !groups.contains(group) => {
                format!("No gateway that the rule selects has {label}={group} any more.")
            }
            _ => "The condition is not true any more.".to_owned(),
        }
    }
}

/// What is known of an organisation, read when a rule first needs it.
pub(super) struct Facts<'a> {
    store: &'a Arc<dyn Alerts>,
    organisation: OrganisationKey,
    now: Timestamp,
    gateways: Option<Arc<Vec<WatchedGateway>>>,
    nodes: Option<Arc<Vec<NodeCondition>>>,
    failures: HashMap<String, Arc<HashMap<GatewayId, i64>>>,
}

impl<'a> Facts<'a> {
    pub(super) fn new(
        store: &'a Arc<dyn Alerts>,
        organisation: OrganisationKey,
        now: Timestamp,
    ) -> Self {
        let failures = HashMap::new();
        Self { store, organisation, now, gateways: None, nodes: None, failures }
    }

    /// What a rule finds.
    pub(super) async fn evaluate(&mut self, rule: &AlertRuleDefinition) -> Result<Findings> {
        let window = rule.window_seconds.map(Duration::from_secs);
        let since = self.now.minus(window.unwrap_or_default());
        Ok(match rule.kind {
            AlertKind::InboxRejected => self.rejected(rule).await?,
            AlertKind::DiskSpace => of_nodes(&disks(&self.nodes().await?, self.now, rule)),
            AlertKind::NodeLost => of_nodes(&lost(&self.nodes().await?, since)),
            AlertKind::Expiry => self.expiring(rule).await?,
            _ => self.of_gateways(rule, since).await?,
        })
    }

    async fn gateways(&mut self) -> Result<Arc<Vec<WatchedGateway>>> {
        if let Some(known) = &self.gateways {
            return Ok(Arc::clone(known));
        }
        let read = Arc::new(self.store.watched_gateways(self.organisation).await?);
        Ok(Arc::clone(self.gateways.insert(read)))
    }

    async fn nodes(&mut self) -> Result<Arc<Vec<NodeCondition>>> {
        if let Some(known) = &self.nodes {
            return Ok(Arc::clone(known));
        }
        let since = self.now.minus(NODES_SINCE);
        let read = Arc::new(self.store.node_conditions(since, MAX_NODES).await?);
        Ok(Arc::clone(self.nodes.insert(read)))
    }

    /// Failures by gateway. Rules with the same filters share the answer.
    async fn failures(
        &mut self,
        rule: &AlertRuleDefinition,
        since: Timestamp,
    ) -> Result<Arc<HashMap<GatewayId, i64>>> {
        let count =
            FailureCount { since, reason: rule.reason, event_type: rule.event_type.clone() };
        let key = format!("{count:?}");
        if let Some(known) = self.failures.get(&key) {
            return Ok(Arc::clone(known));
        }
        let read = self.store.failure_counts(self.organisation, &count).await?;
        let read: Arc<HashMap<_, _>> = Arc::new(read.into_iter().collect());
        self.failures.insert(key, Arc::clone(&read));
        Ok(read)
    }

    async fn rejected(&self, rule: &AlertRuleDefinition) -> Result<Findings> {
        let count = self.store.rejected_count(self.organisation, MAX_REJECTED).await?;
        let count = u64::try_from(count).unwrap_or(0);
        let mut findings = Findings::default();
        if count >= rule.threshold.unwrap_or(1) {
            let summary = format!("{} of the inbox could not be published", rows(count));
            let finding = Finding { count, gateways: Vec::new(), summary };
            findings.groups.insert(String::new(), finding);
        }
        Ok(findings)
    }

    /// Gateways by what they contribute: none, or a number that counts towards the threshold.
    async fn of_gateways(
        &mut self,
        rule: &AlertRuleDefinition,
        since: Timestamp,
    ) -> Result<Findings> {
        let gateways = self.gateways().await?;
        let measured: HashMap<GatewayId, i64> = match rule.kind {
            AlertKind::DeliveryFailures => self.failures(rule, since).await?.as_ref().clone(),
            AlertKind::UnexpectedAddress => self.unexpected_addresses(rule, since).await?,
            _ => HashMap::new(),
        };
        let measure = |gateway: &WatchedGateway| -> u64 {
            let amount = match rule.kind {
                AlertKind::GatewayAway => i64::from(is_away(gateway, since)),
                AlertKind::GatewayBehind => i64::from(is_behind(gateway, rule, since)),
                AlertKind::DeadLetters => gateway.dead_letters,
                _ => measured.get(&gateway.id).copied().unwrap_or(0),
            };
            u64::try_from(amount).unwrap_or(0)
        };
        Ok(grouped(rule, &gateways, measure))
    }

    /// Gateways whose key was used from an unexpected address.
    async fn unexpected_addresses(
        &self,
        rule: &AlertRuleDefinition,
        since: Timestamp,
    ) -> Result<HashMap<GatewayId, i64>> {
        let used = self.store.used_addresses(self.organisation, since, MAX_ADDRESSES).await?;
        let mut found = HashMap::new();
        for one in used.iter().filter(|one| !is_allowed(rule, &one.address)) {
            *found.entry(one.gateway).or_default() += 1;
        }
        Ok(found)
    }

    async fn expiring(&mut self, rule: &AlertRuleDefinition) -> Result<Findings> {
        let gateways = self.gateways().await?;
        let week_ago = self.now.minus(WEEK);
        let to = self.now.plus(Duration::from_secs(rule.window_seconds.unwrap_or_default()));
        let store = self.store;
        let tokens =
            store.expiring_tokens(self.organisation, week_ago, to, week_ago, MAX_TOKENS).await?;
        let is_general = rule.selector.is_empty();
        let by_id: HashMap<GatewayId, &WatchedGateway> =
            gateways.iter().map(|gateway| (gateway.id, gateway)).collect();
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut named: BTreeMap<String, Vec<AlertGateway>> = BTreeMap::new();
        for token in &tokens {
            let Some(id) = token.gateway else {
                if is_general {
                    found.entry(String::new()).or_default().push(described(token, self.now));
                }
                continue;
            };
            let gateway = by_id.get(&id).filter(|gateway| selects(rule, gateway));
            let Some(gateway) = gateway else { continue };
            let group = group_of(rule, gateway);
            found.entry(group.clone()).or_default().push(described(token, self.now));
            named.entry(group).or_default().push(shown(gateway));
        }
        if is_general {
            for node in self.nodes().await?.iter().filter(|node| node.stopped_at.is_none()) {
                let expires_at = node.health.certificate_expires_at.filter(|at| *at <= to);
                if let Some(at) = expires_at.filter(|_| is_live(node, self.now)) {
                    let text = format!("the certificate of {} {}", host(node), when(at, self.now));
                    found.entry(String::new()).or_default().push(text);
                }
            }
        }
        let groups = found.into_iter().map(|(group, texts)| {
            let gateways = named.remove(&group).unwrap_or_default();
            let count = u64::try_from(texts.len()).unwrap_or(u64::MAX);
            let summary = sentence(&texts);
            (group, Finding { count, gateways, summary })
        });
        let groups = groups.collect();
        let selected = (!is_general).then(|| selected_groups(rule, &gateways));
        Ok(Findings { groups, selected })
    }
}

fn is_away(gateway: &WatchedGateway, since: Timestamp) -> bool {
    !gateway.is_stopped && !gateway.is_connected && gateway.left_at < since
}

fn is_behind(gateway: &WatchedGateway, rule: &AlertRuleDefinition, since: Timestamp) -> bool {
    let pending = u64::try_from(gateway.pending).unwrap_or(0);
    let has_many = rule.threshold.is_some_and(|most| pending > most);
    let is_old = rule.window_seconds.is_some()
        && gateway.oldest_pending_at.is_some_and(|oldest| oldest < since);
    !gateway.is_stopped && gateway.is_connected && pending > 0 && (has_many || is_old)
}

fn selects(rule: &AlertRuleDefinition, gateway: &WatchedGateway) -> bool {
    rule.selector.iter().all(|(name, value)| gateway.labels.get(name) == Some(value))
}

/// The value of the label that the rule groups by.
fn group_of(rule: &AlertRuleDefinition, gateway: &WatchedGateway) -> String {
    let label = rule.group_by.as_ref().and_then(|label| gateway.labels.get(label));
    label.cloned().unwrap_or_default()
}

fn selected_groups(rule: &AlertRuleDefinition, gateways: &[WatchedGateway]) -> BTreeSet<String> {
    gateways.iter().filter(|it| selects(rule, it)).map(|it| group_of(rule, it)).collect()
}

fn shown(gateway: &WatchedGateway) -> AlertGateway {
    AlertGateway { id: gateway.id, name: gateway.name.clone() }
}

/// Adds up what the selected gateways of each group contribute, and keeps the groups that reach the
/// threshold.
fn grouped(
    rule: &AlertRuleDefinition,
    gateways: &[WatchedGateway],
    measure: impl Fn(&WatchedGateway) -> u64,
) -> Findings {
    debug_assert!(is_of_gateways(rule.kind));
    let selected = selected_groups(rule, gateways);
    let mut sums: BTreeMap<String, (u64, Vec<AlertGateway>)> = BTreeMap::new();
    for gateway in gateways.iter().filter(|gateway| selects(rule, gateway)) {
        let amount = measure(gateway);
        if amount == 0 {
            continue;
        }
        let mut group = group_of(rule, gateway);
        if sums.len() >= MAX_GROUPS && !sums.contains_key(&group) {
            OTHERS.clone_into(&mut group);
        }
        let (sum, named) = sums.entry(group).or_default();
        *sum += amount;
        named.push(shown(gateway));
    }
    let is_reached = |sum: u64| match rule.kind {
        AlertKind::DeliveryFailures => sum > rule.threshold.unwrap_or_default(),
        AlertKind::DeadLetters => sum >= rule.threshold.unwrap_or(1),
        _ => sum > 0,
    };
    let groups = sums.into_iter().filter(|(_, (sum, _))| is_reached(*sum)).map(|(group, it)| {
        let (sum, gateways) = it;
        let count = match rule.kind {
            AlertKind::DeliveryFailures | AlertKind::DeadLetters => sum,
            _ => u64::try_from(gateways.len()).unwrap_or(u64::MAX),
        };
        let summary = summary(rule, count, &gateways);
        (group, Finding { count, gateways, summary })
    });
    Findings { groups: groups.collect(), selected: Some(selected) }
}

fn summary(rule: &AlertRuleDefinition, count: u64, gateways: &[AlertGateway]) -> String {
    let names: Vec<String> = gateways.iter().map(|gateway| gateway.name.clone()).collect();
    let (window, at) = (span(rule.window_seconds.unwrap_or_default()), listed(&names));
    let (are, have) = if count == 1 { ("is", "has") } else { ("are", "have") };
    let of = if count == 1 { "1 gateway".to_owned() } else { format!("{count} gateways") };
    match rule.kind {
        AlertKind::GatewayAway => format!("{of} {have} been away for more than {window}: {at}"),
        AlertKind::GatewayBehind => {
            let by = match (rule.threshold, rule.window_seconds) {
                (Some(events), None) => format!("more than {events} events"),
                (None, _) => format!("more than {window}"),
                (Some(events), Some(_)) => format!("more than {events} events or {window}"),
            };
            format!("{of} {are} behind by {by}: {at}")
        }
        AlertKind::DeliveryFailures => {
            let reason = rule.reason.map(|reason| format!(" with {reason}")).unwrap_or_default();
            let of = rule.event_type.as_ref().map(|it| format!(" of {it}")).unwrap_or_default();
            format!("{count} deliveries{of} failed{reason} within {window}, at {at}")
        }
        AlertKind::DeadLetters if count == 1 => format!("1 dead letter, of {at}"),
        AlertKind::DeadLetters => format!("{count} dead letters, of {at}"),
        _ => format!("The keys of {of} were used from unexpected addresses: {at}"),
    }
}

fn rows(count: u64) -> String {
    match i64::try_from(count) {
        Ok(1) => "1 row".to_owned(),
        Ok(MAX_REJECTED) => format!("{MAX_REJECTED} or more rows"),
        _ => format!("{count} rows"),
    }
}

/// One finding about nodes, from a text for each.
fn of_nodes(texts: &[String]) -> Findings {
    let mut findings = Findings::default();
    if !texts.is_empty() {
        let count = u64::try_from(texts.len()).unwrap_or(u64::MAX);
        let finding = Finding { count, gateways: Vec::new(), summary: sentence(texts) };
        findings.groups.insert(String::new(), finding);
    }
    findings
}

/// Nodes with too little free space.
fn disks(nodes: &[NodeCondition], now: Timestamp, rule: &AlertRuleDefinition) -> Vec<String> {
    let least = i64::try_from(rule.threshold.unwrap_or_default()).unwrap_or(99);
    let texts = nodes.iter().filter(|node| is_live(node, now)).filter_map(|node| {
        let (free, total) = node.health.disk_free.zip(node.health.disk_total)?;
        let is_low = total > 0 && i128::from(free) * 100 < i128::from(total) * i128::from(least);
        let percent = i128::from(free) * 100 / i128::from(total.max(1));
        is_low.then(|| format!("{percent} % are free on the disk of {}", host(node)))
    });
    texts.collect()
}

/// Nodes that were lost since an instant, and whose host has no node that started afterwards.
fn lost(nodes: &[NodeCondition], since: Timestamp) -> Vec<String> {
    let is_lost = |node: &NodeCondition| {
        let lost_at = node.lost_at.filter(|at| *at > node.heartbeat_at && *at >= since);
        node.stopped_at.is_none() && lost_at.is_some()
    };
    let is_replaced = |node: &NodeCondition| {
        node.host.is_some()
            && nodes.iter().any(|other| {
                other.host == node.host
                    && other.started_at > node.started_at
                    && other.lost_at.is_none_or(|at| at <= other.heartbeat_at)
            })
    };
    let lost = nodes.iter().filter(|node| is_lost(node) && !is_replaced(node));
    lost.map(|node| format!("the node {} on {} was lost", node.id, host(node))).collect()
}

/// Whether its last heartbeat is recent enough for what it has measured.
fn is_live(node: &NodeCondition, now: Timestamp) -> bool {
    const RECENT: Duration = Duration::from_mins(2);
    node.stopped_at.is_none() && node.heartbeat_at >= now.minus(RECENT)
}

fn host(node: &NodeCondition) -> &str {
    node.host.as_deref().unwrap_or("an unknown host")
}

fn described(token: &ExpiringToken, now: Timestamp) -> String {
    let ExpiringToken { id, gateway, name, expires_at } = token;
    let when = when(*expires_at, now);
    match gateway {
        Some(_) => format!("the key {id} of gateway {name} {when}"),
        None => format!("the access token {id} ({name}) {when}"),
    }
}

fn when(at: Timestamp, now: Timestamp) -> String {
    let (at, verb) = (day(at), if at > now { "expires" } else { "has expired" });
    format!("{verb} ({at})")
}

fn day(at: Timestamp) -> String {
    at.to_string().chars().take("2026-01-31".len()).collect()
}

/// A sentence that begins with an upper-case letter and lists a few texts.
fn sentence(texts: &[String]) -> String {
    let text = listed(texts);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The first few texts, and how many others there are.
fn listed(texts: &[String]) -> String {
    let shown = texts[..texts.len().min(LISTED)].join(", ");
    match texts.len().saturating_sub(LISTED) {
        0 => shown,
        others => format!("{shown} and {others} more"),
    }
}

/// A duration in its largest whole unit.
fn span(secs: u64) -> String {
    match secs {
        0 => "0 s".to_owned(),
        secs if secs % 86_400 == 0 => format!("{} d", secs / 86_400),
        secs if secs % 3_600 == 0 => format!("{} h", secs / 3_600),
        secs if secs % 60 == 0 => format!("{} min", secs / 60),
        secs => format!("{secs} s"),
    }
}

#[cfg(test)]
mod tests;
