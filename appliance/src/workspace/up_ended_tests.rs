//! What is left, and what the next `up` makes of it, when one was killed, interrupted or failed.

use super::*;

/// The same when nobody is left to write down how it ended.
#[test]
fn every_kill_is_survived() {
    for (point, status) in [
        ("build", Status::Building),
        ("create", Status::Starting),
        ("start", Status::Starting),
        ("person", Status::Starting),
    ] {
        for from_repository in [false, true] {
            let world = world();
            let source = match from_repository {
                true => world.repository(),
                false => world.folder(),
            };
            world.backend.state().fail = Some((point, Fault::new(Class::Internal, KILL)));
            let killed = std::panic::AssertUnwindSafe(|| world.up(source.clone()));
            assert!(std::panic::catch_unwind(killed).is_err(), "{point}");
            let names = world.store.names().unwrap();
            assert_eq!(
                world.store.require(&names[0]).unwrap().status,
                status,
                "{point}"
            );
            assert_eq!(
                world.engine().status(&names[0]).unwrap().status,
                match point {
                    "start" => Status::Stopped,
                    _ => Status::Failed,
                }
            );
            let meta = world.up(source).unwrap();
            assert_eq!(
                (meta.status, meta.name.as_str()),
                (Status::Running, names[0].as_str())
            );
            let state = world.backend.state();
            assert_eq!(
                (state.sandboxes.len(), state.processes.len()),
                (1, 3),
                "{point}"
            );
        }
    }
}

/// Wherever the first `up` ends, the second one goes on and the result is the same.
#[test]
fn every_interruption_is_survived() {
    for point in [
        "build",
        "create",
        "start",
        "person",
        "exec create",
        "exec post",
        "exec started",
    ] {
        for class in [Class::Cancelled, Class::Internal] {
            let world = world();
            let fault = Fault::new(class, "interrupted");
            world.backend.state().fail = Some((point, fault));
            let fault = world.up(world.folder()).unwrap_err();
            assert_eq!(fault.message, "interrupted", "{point}");
            let first = world.backend.taken();
            let meta = world.up(world.folder()).unwrap();
            assert_eq!(
                (meta.status, &meta.failure),
                (Status::Running, &None),
                "{point}"
            );
            let second = world.backend.taken();
            let state = world.backend.state();
            assert_eq!(state.sandboxes.len(), 1, "{point}");
            let ran: Vec<_> = state.processes.iter().map(|p| p.args[2].as_str()).collect();
            assert_eq!(
                ran,
                ["create", "post", "started"],
                "{point}: {first:?} {second:?}"
            );
        }
    }
}

#[test]
fn a_failed_build_begins_with_a_fresh_clone() {
    let world = world();
    let source = world.repository();
    let failed = Fault::new(Class::Dockerfile, "Dockerfile:1: no").with_logs(vec!["log".into()]);
    world.backend.state().fail = Some(("build", failed));
    world.up(source.clone()).unwrap_err();
    let meta = world.store.require(&name("tool")).unwrap();
    assert_eq!(meta.status, Status::Failed);
    let record = meta.failure.clone().unwrap();
    assert_eq!(
        (record.stage, record.logs.as_slice()),
        (Stage::Build, &["log".to_owned()][..])
    );
    world.write("My App/corrected", "");
    world.repository();
    let meta = world.up(source).unwrap();
    let volume = world.backend.folder.join(meta.volume_id.unwrap());
    assert!(volume.join("repo/corrected").exists());
}
