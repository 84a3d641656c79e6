//! The state machine of alerts, step by step.

use std::collections::BTreeSet;

use super::*;
use crate::alerts::rules::built_ins;
use crate::api::AlertRuleDefinition;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_micros(secs * 1_000_000)
}

/// A rule that holds for 10 s and keeps firing for 20 s.
fn rule() -> Rule {
    let definition = AlertRuleDefinition {
        for_seconds: 10,
        keep_firing_seconds: 20,
        group_by: Some("region".to_owned()),
        ..built_ins()["gateway-away"].clone()
    };
    Rule { id: "away".to_owned(), is_built_in: false, definition, silence: None }
}

fn findings(groups: &[&str], selected: &[&str]) -> Findings {
    let finding = |group: &&str| {
        let summary = format!("found {group}");
        ((*group).to_owned(), Finding { count: 1, gateways: Vec::new(), summary })
    };
    let selected: BTreeSet<String> = selected.iter().map(|group| (*group).to_owned()).collect();
    Findings { groups: groups.iter().map(finding).collect(), selected: Some(selected) }
}

/// The alerts of an organisation, and the notifications about them.
#[derive(Default)]
struct Run {
    alerts: BTreeMap<String, StoredAlert>,
    sent: Vec<String>,
}

impl Run {
    /// Evaluates once. Returns the new notifications.
    fn step(&mut self, rule: &Rule, findings: Option<Findings>, now: i64) -> Vec<String> {
        self.with_destinations(&[(rule, findings)], &["ops"], now)
    }

    fn with_destinations(
        &mut self,
        rules: &[Evaluated<'_>],
        destinations: &[&str],
        now: i64,
    ) -> Vec<String> {
        let target = |id: &&str| Target {
            id: (*id).to_owned(),
            is_alertmanager: id.starts_with("alertmanager"),
        };
        let destinations: Vec<Target> = destinations.iter().map(target).collect();
        let known = self.alerts.values().cloned().collect();
        let mut sent = Vec::new();
        for AlertChange { alert, is_forgotten, notifications } in
            decide(rules, known, &destinations, at(now))
        {
            for new in &notifications {
                let event = new.event.as_str();
                sent.push(format!("{event} {}/{} to {}", alert.rule, alert.group, new.destination));
            }
            if is_forgotten {
                self.alerts.remove(&alert.group);
            } else {
                self.alerts.insert(alert.group.clone(), alert);
            }
        }
        self.sent.append(&mut sent.clone());
        sent
    }

    fn state(&self, group: &str) -> Option<AlertState> {
        self.alerts.get(group).map(|alert| alert.state)
    }
}

#[test]
fn an_alert_waits_before_it_fires_and_before_it_is_resolved() {
    let (rule, mut run) = (rule(), Run::default());
    let eu = || Some(findings(&["eu"], &["eu"]));
    let none = || Some(findings(&[], &["eu"]));
    assert!(run.step(&rule, eu(), 100).is_empty());
    assert_eq!(run.state("eu"), Some(AlertState::Pending));
    assert!(run.step(&rule, eu(), 109).is_empty());
    assert_eq!(run.step(&rule, eu(), 110), ["firing away/eu to ops"]);
    assert_eq!(run.alerts["eu"].since, at(100));
    assert!(run.step(&rule, eu(), 120).is_empty(), "it is sent once");
    // Away for less than it keeps firing.
    assert!(run.step(&rule, none(), 130).is_empty());
    assert!(run.step(&rule, none(), 149).is_empty());
    assert!(run.step(&rule, eu(), 150).is_empty());
    assert_eq!(run.state("eu"), Some(AlertState::Firing));
    assert!(run.step(&rule, none(), 160).is_empty());
    assert_eq!(run.step(&rule, none(), 180), ["resolved away/eu to ops"]);
    assert!(run.step(&rule, none(), 190).is_empty());
    assert_eq!(run.state("eu"), Some(AlertState::Resolved));
    // The thread continues with a new alert.
    assert!(run.step(&rule, eu(), 200).is_empty());
    assert_eq!(run.alerts["eu"].since, at(200));
    assert_eq!(run.step(&rule, eu(), 210), ["firing away/eu to ops"]);
}

#[test]
fn what_ends_before_it_fires_is_forgotten() {
    let (rule, mut run) = (rule(), Run::default());
    run.step(&rule, Some(findings(&["eu"], &["eu"])), 100);
    run.step(&rule, Some(findings(&[], &["eu"])), 105);
    assert_eq!(run.state("eu"), None);
    run.step(&rule, Some(findings(&["eu"], &["eu"])), 106);
    assert!(run.step(&rule, Some(findings(&["eu"], &["eu"])), 112).is_empty(), "it waits again");
}

#[test]
fn a_selector_that_matches_nothing_any_more_resolves_and_says_so() {
    let (rule, mut run) = (rule(), Run::default());
    for now in [100, 110] {
        run.step(&rule, Some(findings(&["eu", "us"], &["eu", "us"])), now);
    }
    assert_eq!(run.step(&rule, Some(findings(&["us"], &["us"])), 111), ["resolved away/eu to ops"]);
    let said = StoredFinding::read(&run.alerts["eu"].found).finding.summary;
    assert!(said.contains("region=eu any more"), "{said}");
    assert_eq!(run.step(&rule, Some(findings(&[], &[])), 112), ["resolved away/us to ops"]);
    let said = StoredFinding::read(&run.alerts["us"].found).finding.summary;
    assert!(said.contains("No gateway matches"), "{said}");
}

#[test]
fn a_deleted_rule_resolves_its_alerts_and_one_that_fails_changes_nothing() {
    let (rule, mut run) = (rule(), Run::default());
    for now in [100, 110] {
        run.step(&rule, Some(findings(&["eu"], &["eu"])), now);
    }
    assert!(run.step(&rule, None, 500).is_empty());
    assert_eq!(run.state("eu"), Some(AlertState::Firing));
    let sent = run.with_destinations(&[], &["ops"], 501);
    assert_eq!(sent, ["resolved away/eu to ops"]);
    let stored_finding = StoredFinding::read(&run.alerts["eu"].found);
    assert!(stored_finding.finding.summary.contains("deleted or disabled"));
    assert_eq!(stored_finding.severity, rule.definition.severity, "as it was");
}

#[test]
fn a_silent_rule_sends_no_notification_until_its_silence_ends() {
    let (mut rule, mut run) = (rule(), Run::default());
    rule.silence = Some((at(200), "ops".to_owned()));
    let eu = || Some(findings(&["eu"], &["eu"]));
    for now in [100, 110, 199] {
        assert!(run.step(&rule, eu(), now).is_empty());
    }
    assert_eq!(run.state("eu"), Some(AlertState::Firing));
    assert_eq!(run.step(&rule, eu(), 200), ["firing away/eu to ops"]);
    rule.silence = Some((at(900), "ops".to_owned()));
    run.step(&rule, Some(findings(&[], &["eu"])), 300);
    let sent = run.step(&rule, Some(findings(&[], &["eu"])), 320);
    assert_eq!(sent, ["resolved away/eu to ops"], "the destination that was notified");

    let (mut rule, mut run) = (self::rule(), Run::default());
    rule.silence = Some((at(900), "ops".to_owned()));
    for now in [100, 110] {
        run.step(&rule, eu(), now);
    }
    for now in [120, 140] {
        assert!(
            run.step(&rule, Some(findings(&[], &["eu"])), now).is_empty(),
            "no destination was notified"
        );
    }
    assert_eq!(run.state("eu"), Some(AlertState::Resolved));
}

#[test]
fn the_end_is_sent_to_the_destinations_of_the_begin() {
    let (mut rule, mut run) = (rule(), Run::default());
    let eu = || Some(findings(&["eu"], &["eu"]));
    for now in [100, 110] {
        run.with_destinations(&[(&rule, eu())], &[], now);
    }
    assert!(run.sent.is_empty());
    let sent = run.with_destinations(&[(&rule, eu())], &["a", "b"], 120);
    assert_eq!(sent, ["firing away/eu to a", "firing away/eu to b"], "the first destinations");
    assert!(run.with_destinations(&[(&rule, eu())], &["a", "b", "c"], 130).is_empty());
    rule.definition.destinations = Some(vec!["c".to_owned()]);
    let sent = run.with_destinations(&[(&rule, Some(findings(&[], &[])))], &["a", "b", "c"], 140);
    assert_eq!(sent, ["resolved away/eu to a", "resolved away/eu to b"]);
    for now in [200, 210] {
        run.with_destinations(&[(&rule, eu())], &["a", "b", "c"], now);
    }
    assert_eq!(run.sent.last().map(String::as_str), Some("firing away/eu to c"), "the chosen one");
}

#[test]
fn a_firing_alert_is_sent_again_to_alertmanagers_only() {
    let (mut rule, mut run) = (rule(), Run::default());
    let all = ["alertmanager", "hook"];
    let refresh = i64::try_from(REFRESH.as_secs()).unwrap();
    let mut step = |rule: &Rule, groups: &[&str], now: i64| {
        run.with_destinations(&[(rule, Some(findings(groups, &["eu"])))], &all, now)
    };
    step(&rule, &["eu"], 100);
    assert_eq!(
        step(&rule, &["eu"], 110),
        ["firing away/eu to alertmanager", "firing away/eu to hook"]
    );
    assert!(step(&rule, &["eu"], 109 + refresh).is_empty());
    // A silence of the rule does not resolve the alert.
    rule.silence = Some((at(900 + 9 * refresh), "ops".to_owned()));
    assert_eq!(step(&rule, &["eu"], 110 + refresh), ["firing away/eu to alertmanager"]);
    assert!(step(&rule, &["eu"], 109 + 2 * refresh).is_empty());
    assert_eq!(step(&rule, &["eu"], 115 + 2 * refresh), ["firing away/eu to alertmanager"]);
    step(&rule, &[], 120 + 2 * refresh);
    let sent = step(&rule, &[], 140 + 2 * refresh);
    assert_eq!(sent, ["resolved away/eu to alertmanager", "resolved away/eu to hook"]);
}
