//! What a configuration may have of this host: folders, processors, memory, ids.

use super::*;

#[test]
fn a_project_s_limits_reach_its_build_and_its_sandbox() {
    let world = world();
    let limits = r#"{"builder": {"memory": "3Gi"}, "sandbox": {"cpu": 1.5, "timeout": 60}}"#;
    world.write("My App/.devpod.json", limits);
    let meta = world.up(world.folder()).unwrap();
    let state = world.backend.state();
    let build = state.build.as_ref().unwrap().limits;
    assert_eq!(build.memory.map(|size| size.0), Some(3 << 30));
    assert_eq!(build.cpu, None);
    let sandbox = state.sandboxes[&meta.sandbox_name()].1.limits;
    assert_eq!(sandbox.cpu.map(|cpu| cpu.0), Some(1500));
    assert_eq!(sandbox.timeout.map(|seconds| seconds.0), Some(60));
}

/// A clone that asks for `source` at /keys.
fn cloned_with_bind(world: &World, source: &Path) -> Wanted {
    let text = format!(
        r#"{{"image": "a", "mounts": ["type=bind,source={},target=/keys,readonly"]}}"#,
        source.display()
    );
    world.write("My App/.devcontainer/devcontainer.json", &text);
    world.repository()
}

#[test]
fn a_repository_mounts_nothing_of_the_host_unasked() {
    let world = world();
    world.write("keys/id", "secret");
    let keys = world.root.path().join("keys").canonicalize().unwrap();
    let source = cloned_with_bind(&world, &keys);
    let fault = world.up(source.clone()).unwrap_err();
    assert_eq!(
        (fault.class, fault.stage),
        (Class::Permission, Some(Stage::Parse))
    );
    let file = ".devcontainer/devcontainer.json: the bind mount of ";
    assert!(
        fault
            .message
            .starts_with(&format!("{file}{}", keys.display())),
        "{fault}"
    );
    let said = fault.suggestion.unwrap();
    assert!(
        said.contains(&format!("--allow-mount {}", keys.display())),
        "{said}"
    );
    // Refused before anything was made.
    assert_eq!(world.backend.state().sandboxes.len(), 0);
    assert!(
        !world
            .backend
            .taken()
            .iter()
            .any(|call| call.starts_with("pull"))
    );
    let wish = Wish {
        allowed: vec![keys.clone()],
        ..world.wish(source)
    };
    let meta = world.engine().up(&wish).unwrap();
    let expected = Mount::Bind {
        source: keys.clone(),
        target: "/keys".into(),
        read_only: true,
    };
    assert_eq!(
        world.backend.state().sandboxes[&meta.sandbox_name()]
            .1
            .mounts[1],
        expected
    );
    let line = format!(
        "[Workspace] {} of this host is shown at /keys, read-only",
        keys.display()
    );
    assert!(world.lines.lock().unwrap().contains(&line));
}

#[test]
fn the_settings_allow_a_repository_s_mounts() {
    let mut world = world();
    world.write("keys/deep/id", "secret");
    let keys = world.root.path().join("keys");
    let source = cloned_with_bind(&world, &keys.join("deep"));
    world.settings.mounts = vec![keys];
    world.up(source).unwrap();
}

#[test]
fn a_person_s_own_folder_mounts_what_it_says_and_tells_it() {
    let world = world();
    world.write("keys/id", "secret");
    let keys = world.root.path().join("keys").canonicalize().unwrap();
    cloned_with_bind(&world, &keys);
    world.up(world.folder()).unwrap();
    let line = format!(
        "[Workspace] {} of this host is shown at /keys, read-only",
        keys.display()
    );
    assert!(world.lines.lock().unwrap().contains(&line));
}

#[test]
fn the_one_id_is_called_as_the_user_is() {
    let world = world();
    world.write(
        "My App/.devcontainer/devcontainer.json",
        r#"{"image": "a", "remoteUser": "dev"}"#,
    );
    let engine = Engine {
        ids: Ids::SINGLE,
        ..world.engine()
    };
    let meta = engine.up(&world.wish(world.folder())).unwrap();
    let session = meta.session.unwrap();
    assert_eq!(
        (session.uid, session.home.as_str(), session.user.as_str()),
        (1000, "/home/dev", "dev")
    );
}
