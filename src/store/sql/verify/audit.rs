//! Checks the chain of the audit log, from the last record that retention removed to the newest one.

use super::super::audit;
use super::super::dialect::Connection;
use crate::store::{AuditHead, Result, VerifyReport};

#[cfg(test)]
mod tests;

/// Records read at a time.
const PAGE: i64 = 500;

/// Counts the records and reports the first one at which the chain breaks. If `anchor` is given,
/// the record of that sequence must have that hash.
pub(super) async fn check(
    conn: &mut Connection,
    anchor: Option<AuditHead>,
    report: &mut VerifyReport,
) -> Result<()> {
    let mut found = Vec::new();
    match audit::ends(conn).await? {
        Some((head, floor)) => chain(conn, head, floor, anchor, report, &mut found).await?,
        None => found.push("its head is missing".to_owned()),
    }
    report.problems.extend(found.into_iter().map(|problem| format!("audit log: {problem}")));
    Ok(())
}

async fn chain(
    conn: &mut Connection,
    head: AuditHead,
    floor: AuditHead,
    anchor: Option<AuditHead>,
    report: &mut VerifyReport,
    found: &mut Vec<String>,
) -> Result<()> {
    (report.audit_head, report.audit_removed) = (head, floor.sequence);
    let mut position = floor;
    let mut at_anchor = anchor.filter(|anchor| anchor.sequence == floor.sequence).map(|_| floor);
    let mut is_broken = false;
    // Sequences begin with 1. Rows below the floor were inserted.
    let mut after = i64::MIN;
    loop {
        let page = audit::page(conn, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.sequence;
        for record in &page {
            report.audit_records += 1;
            if anchor.is_some_and(|anchor| anchor.sequence == record.sequence) {
                at_anchor = Some(record.head());
            }
            if is_broken {
                continue;
            }
            if let Err(why) = position.advance(record) {
                found.push(why);
                is_broken = true;
            }
        }
    }
    if !is_broken && position != head {
        found.push(ended(position, head));
    }
    found.extend(anchor.and_then(|anchor| compared(anchor, at_anchor, head, floor)));
    Ok(())
}

/// The chain ends elsewhere than its head says.
fn ended(last: AuditHead, head: AuditHead) -> String {
    if last.sequence < head.sequence {
        let first = last.sequence + 1;
        return match head.sequence - last.sequence {
            1 => format!("record {first}, the last one, is missing"),
            _ => format!("records {first} to {}, the last ones, are missing", head.sequence),
        };
    }
    if last.sequence > head.sequence {
        return format!("record {} is beyond the last one, {}", head.sequence + 1, head.sequence);
    }
    format!("record {}, the last one, was changed: its hash is not that of the head", head.sequence)
}

/// How the record at the anchor's sequence differs from the anchor.
fn compared(
    anchor: AuditHead,
    found: Option<AuditHead>,
    head: AuditHead,
    floor: AuditHead,
) -> Option<String> {
    let AuditHead { sequence, hash } = anchor;
    match found {
        Some(found) if found == anchor => None,
        Some(found) => Some(format!(
            "record {sequence} has the hash {}, not {hash}: it or an older record was replaced",
            found.hash
        )),
        None if sequence > head.sequence => Some(format!(
            "record {sequence} does not exist any more: the last one is {}",
            head.sequence
        )),
        None if sequence < floor.sequence => Some(format!(
            "record {sequence} can't be compared: retention has removed the records up to {}",
            floor.sequence
        )),
        None => Some(format!("record {sequence} is missing")),
    }
}
