//! Named instances of a gateway.

use serde_json::json;

use super::{Bed, GREETED, RELIABLE, over};
use crate::both_databases::{On, on_both};

on_both! {
    each_instance_has_its_own_position
    a_later_connection_of_an_instance_replaces_the_earlier_one
    delivered_means_confirmed_by_any_or_by_all_instances
}

async fn each_instance_has_its_own_position(on: On) {
    over(&on, &[], RELIABLE, async |bed: Bed| {
        bed.publish(1..=3).await;
        // A new instance starts at the gateway's position.
        let mut one = bed.connect(json!({"instance": "one"})).await;
        let mut two = bed.connect(json!({"instance": "two"})).await;
        one.events(1..=3).await;
        two.events(1..=3).await;
        one.applied(3).await;
        bed.confirmed(3).await;
        one.leave().await;
        drop(two);
        bed.publish(4..=4).await;
        let mut one = bed.connect(json!({"instance": "one"})).await;
        one.starts_after(3, Some(4)).await;
        let mut two = bed.connect(json!({"instance": "two"})).await;
        two.starts_after(0, Some(1)).await;
    })
    .await;
}

async fn a_later_connection_of_an_instance_replaces_the_earlier_one(on: On) {
    // Requests of one instance share a connection when it polls.
    over(&on, &[], GREETED, async |bed: Bed| {
        bed.publish(1..=1).await;
        let mut earlier = bed.connected().await;
        let mut other = bed.connect(json!({"instance": "other"})).await;
        let mut later = bed.connected().await;
        assert_eq!(earlier.closed().await, (Some(4009), Some("replaced".to_owned())));
        later.event(1).await;
        other.event(1).await;
        other.quiet().await;
    })
    .await;
}

async fn delivered_means_confirmed_by_any_or_by_all_instances(on: On) {
    over(&on, &[], RELIABLE, async |bed: Bed| {
        let mut one = bed.connect(json!({"instance": "one"})).await;
        let mut two = bed.connect(json!({"instance": "two"})).await;
        for (number, confirmation) in [(1, "any"), (2, "all")] {
            bed.confirm_by(confirmation).await;
            bed.publish(number..=number).await;
            one.event(number).await;
            two.event(number).await;
            one.applied(number).await;
            if confirmation == "all" {
                two.quiet().await;
                bed.delivery(number, |it| it.state == "pending").await;
                two.applied(number).await;
            }
            bed.delivery(number, |it| it.state == "delivered").await;
            // For the next round.
            if confirmation == "any" {
                two.applied(number).await;
            }
        }
    })
    .await;
}
