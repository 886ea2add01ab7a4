//! Spawns with a user each and one group for all of them (`--spawn-user FIRST-LAST:GROUP`): what the group opens, and what it does not.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use hatchery_tests::users::{Users, can, can_with, ids};
use hatchery_tests::{is_root, skipped};

#[tokio::test]
async fn the_group_of_all_spawns_lets_them_read_their_licence_and_nothing_of_each_other() {
    if !is_root() {
        return skipped("spawns of users of their own", "only root may start them");
    }
    let users = Users::new(2);
    let group = users.first + 500;
    let mut farm = users.farm_with(&["--spawn-user", &format!("{}:{group}", users.range())]).await;
    let license = farm.mark().join("license");
    chown(&license, Some(0), Some(group)).unwrap();
    fs::set_permissions(&license, fs::Permissions::from_mode(0o640)).unwrap();
    let (victim, victims_pid) = farm.starts_one().await;
    let (other, attackers_pid) = farm.starts_one().await;
    for round in 0..2 {
        let owners: BTreeSet<u32> =
            [victims_pid, attackers_pid].into_iter().flat_map(|pid| ids(pid, "Uid")).collect();
        assert_eq!(owners, users.all());
        for pid in [victims_pid, attackers_pid] {
            assert_eq!(ids(pid, "Gid"), BTreeSet::from([group]), "of {pid}");
            assert_eq!(ids(pid, "Groups"), BTreeSet::new());
        }
        if round == 0 {
            // The next agent takes them over with their group.
            farm.agents[0].role.kill();
            farm.agents[0].restart().await;
            farm.audit().await;
        }
    }
    let attacker = ids(attackers_pid, "Uid").into_iter().next().unwrap();
    assert!(can_with(attacker, group, &format!("cat {}", license.display())));
    assert!(!can(attacker, &format!("cat {}", license.display())), "only by the group");
    let log = farm.agents[0].output_file(&victim).display().to_string();
    let of_victim = format!("cd /proc/{victims_pid}");
    for script in [
        format!("kill -0 {victims_pid}"),
        format!("cat {log}"),
        format!("{of_victim} && cat environ"),
        format!("{of_victim} && exec 3<mem"),
        format!("echo x >>{}", license.display()),
    ] {
        assert!(!can_with(attacker, group, &script), "{script}");
    }
    assert!(can_with(attacker, group, &format!("cat /proc/{attackers_pid}/environ")), "the attacks are real");
    farm.stop([&*victim, &other]).await;
    farm.finish().await;
}
