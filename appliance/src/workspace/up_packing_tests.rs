//! A sandbox begins before its image is kept.

use super::*;

/// Waits until a command has run; a build that is done before its sandbox begins never comes to that.
fn after(command: &str) -> impl Fn(&TestBackend) -> Result<(), Fault> + Send + use<> {
    let wanted = format!("exec {command}");
    move |backend| {
        for _ in 0..2000 {
            if backend.state().calls.contains(&wanted) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(Fault::new(Class::Internal, "the sandbox did not begin"))
    }
}

#[test]
fn a_sandbox_begins_while_its_image_is_packed() {
    let world = world();
    world.backend.state().packing = Some(Box::new(after("post")));
    let meta = world.up(world.folder()).unwrap();
    assert_eq!(meta.image_digest.as_deref(), Some("sha256:00"));
    assert_eq!(
        world.backend.state().durable.get(&meta.sandbox_name()),
        Some(&Some("sha256:00".to_owned()))
    );
}

#[test]
fn an_image_that_cannot_be_kept_is_told_and_its_sandbox_stays() {
    let world = world();
    let wait = after("started");
    world.backend.state().packing = Some(Box::new(move |backend| {
        wait(backend)?;
        Err(Fault::new(Class::Resources, "the disk is full"))
    }));
    let fault = world.up(world.folder()).unwrap_err();
    assert_eq!(
        (fault.message.as_str(), fault.stage),
        ("the disk is full", Some(Stage::Build))
    );
    world.backend.taken();
    let meta = world.up(world.folder()).unwrap();
    assert_eq!(meta.status, Status::Running);
    assert!(world.backend.taken().is_empty(), "nothing was left to do");
}

#[test]
fn nobody_works_in_a_sandbox_whose_image_was_lost() {
    let world = world();
    world.backend.state().packing = Some(Box::new(|_| panic!("{KILL}")));
    world.backend.state().fail = Some(("person", Fault::new(Class::Internal, "not yet")));
    let killed = std::panic::AssertUnwindSafe(|| world.up(world.folder()));
    assert!(std::panic::catch_unwind(killed).is_err());
    world.backend.taken();
    world.up(world.folder()).unwrap();
    let calls = world.backend.taken();
    assert_eq!(calls[1..4], ["stop", "remove", "create"], "{calls:?}");
}

#[test]
fn a_sandbox_stays_until_the_image_of_the_next_is_kept() {
    let world = world();
    let before = world.up(world.folder()).unwrap();
    world.backend.taken();
    world.write("My App/.devcontainer/Dockerfile", "FROM y");
    world.backend.state().packing = Some(Box::new(|_| {
        Err(Fault::new(Class::Resources, "the disk is full"))
    }));
    let wish = Wish {
        recreate: true,
        ..world.wish(world.folder())
    };
    let fault = world.engine().up(&wish).unwrap_err();
    assert_eq!(fault.message, "the disk is full");
    let calls = world.backend.taken();
    assert_eq!(calls.len(), 1, "only the build: {calls:?}");
    let after = world.store.require(&name("my-app")).unwrap();
    assert_eq!(after.image_digest, before.image_digest);
    assert_eq!(after.dev_sandbox_id, before.dev_sandbox_id);
    world.engine().up(&wish).unwrap();
    let calls = world.backend.taken();
    assert_eq!(calls[1..4], ["stop", "remove", "create"], "{calls:?}");
}

#[test]
fn a_sandbox_whose_command_failed_survives_a_power_cut() {
    let world = world();
    world.backend.state().exits.insert("post".into(), 3);
    world.up(world.folder()).unwrap_err();
    let sandbox = world.store.require(&name("my-app")).unwrap().sandbox_name();
    let image = Some("sha256:00".to_owned());
    assert_eq!(world.backend.state().durable.get(&sandbox), Some(&image));
}

#[test]
fn what_failed_on_both_sides_is_told_together() {
    let world = world();
    let wait = after("post");
    world.backend.state().exits.insert("post".into(), 3);
    world.backend.state().packing = Some(Box::new(move |backend| {
        wait(backend)?;
        Err(Fault::new(Class::Resources, "the disk is full"))
    }));
    let fault = world.up(world.folder()).unwrap_err();
    assert_eq!(fault.message, "the disk is full");
    assert_eq!(fault.causes, ["postCreateCommand ended with exit code 3"]);
    world.backend.state().exits.clear();
    world.up(world.folder()).unwrap();
    let lines = world.lines.lock().unwrap().join("\n");
    assert!(lines.contains("was not kept"), "{lines}");
}
