//! What the image says: configuration, history, stages, arguments.

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::fixture::{Room, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("configuration_and_history", configuration),
        trial("from_scratch", scratch),
        trial("only_needed_stages_are_built", stages),
        trial("arguments_and_variables", arguments),
        trial("a_password_in_the_history_is_told", passwords),
        trial("triggers_run_in_the_child", onbuild),
        trial("another_base_image", base_image),
        trial("an_epoch_makes_equal_bytes", epoch),
    ]
}

fn configuration() {
    let room = Room::new(&[("f", "data")]);
    let dockerfile = r#"
FROM busybox
ENV A=1 B="$BASE $A"
LABEL x=y
WORKDIR /srv
WORKDIR app
COPY f .
RUN echo hello > out
USER app:web
EXPOSE 80 5000-5001/udp
VOLUME ["/data"]
STOPSIGNAL SIGINT
SHELL ["/bin/sh", "-ec"]
HEALTHCHECK --interval=3s CMD true
ONBUILD RUN touch /triggered
ENTRYPOINT run $A
MAINTAINER me
"#;
    let mut request = room.request(dockerfile);
    request.labels.insert("from".into(), "request".into());
    let built = room.run(&request).unwrap();
    let config = serde_json::to_value(&built.config).unwrap();
    let run = &config["config"];
    assert_eq!(
        run["Env"],
        json!(["PATH=/bin", "BASE=yes", "A=1", "B=yes "])
    );
    assert_eq!(run["Labels"], json!({"x": "y", "from": "request"}));
    assert_eq!(run["WorkingDir"], "/srv/app");
    assert_eq!(run["User"], "app:web");
    let ports = json!({"80/tcp": {}, "5000/udp": {}, "5001/udp": {}});
    assert_eq!(run["ExposedPorts"], ports);
    assert_eq!(run["Volumes"], json!({"/data": {}}));
    assert_eq!(run["StopSignal"], "SIGINT");
    assert_eq!(run["Entrypoint"], json!(["/bin/sh", "-ec", "run $A"]));
    assert_eq!(
        run["Cmd"],
        Value::Null,
        "ENTRYPOINT resets an inherited CMD"
    );
    assert_eq!(run["Healthcheck"]["Interval"], 3_000_000_000_u64);
    assert_eq!(run["OnBuild"], json!(["RUN touch /triggered"]));
    assert_eq!(
        (&config["author"], &config["x-kept"]),
        (&json!("me"), &json!(1))
    );
    let history = config["history"].as_array().unwrap();
    let layers = history.iter().filter(|h| h["empty_layer"] != true).count();
    assert_eq!(
        layers,
        config["rootfs"]["diff_ids"].as_array().unwrap().len()
    );
    assert_eq!(history[0]["created_by"], "base");
    assert_eq!(history[5]["created_by"], "COPY f .");
    assert_eq!(history[6]["created_by"], "RUN /bin/sh -c echo hello > out");
    // FROM and ONBUILD have none.
    assert_eq!(history.len(), 15);
    assert_eq!(room.lines()[0], "Step 1/16: FROM busybox");
    let tree = room.tree_of(&built);
    assert_eq!(tree.list("srv"), ["app/", "app/f", "app/out"]);
    assert_eq!(tree.read("srv/app/out"), "hello\n");
    assert_eq!(
        tree.list("")
            .iter()
            .filter(|p| p.starts_with("proc"))
            .count(),
        0
    );
    assert_eq!(tree.access("tmp"), "1777 0:0");
}

fn scratch() {
    let room = Room::new(&[("f", "data")]);
    let tree = room.tree("FROM scratch\nCOPY f /a/b\n");
    assert_eq!(tree.list(""), ["a/", "a/b"]);
    let built = room.build("FROM scratch\nLABEL a=b\n").unwrap();
    assert!(built.stack.is_empty());
    assert_eq!(built.config.config.env.len(), 1);
}

fn stages() {
    let room = Room::new(&[]);
    let dockerfile = "
FROM busybox AS one
RUN echo one > /one
FROM busybox AS unneeded
RUN exit 1
FROM one AS two
RUN echo two > /two
FROM scratch
COPY --from=TWO /one /two /out/
COPY --from=0 /one /zero
COPY --from=busybox /etc/group /group
";
    let tree = room.tree(dockerfile);
    assert_eq!(
        tree.list(""),
        ["group", "out/", "out/one", "out/two", "zero"]
    );
    assert!(!room.lines().iter().any(|line| line.contains("exit 1")));
    let mut request = room.request(dockerfile);
    request.target = Some("two".to_owned());
    let built = room.run(&request).unwrap();
    assert_eq!((built.steps, built.cached), (4, 2));
    assert_eq!(room.tree_of(&built).read("two"), "two\n");
}

fn arguments() {
    let room = Room::new(&[]);
    let dockerfile = r#"
ARG BASE_NAME=busy
FROM ${BASE_NAME}box
ARG A=default
ARG B
ARG TARGETOS
ENV E=env
ARG E=arg
RUN echo "$A $B $TARGETOS $E $http_proxy" > /out
FROM 0
RUN true
"#
    .replace("FROM 0\nRUN true\n", "");
    let mut request = room.request(&dockerfile);
    request.build_args.insert("B".into(), "given".into());
    request.build_args.insert("http_proxy".into(), "p1".into());
    let built = room.run(&request).unwrap();
    assert_eq!(
        room.tree_of(&built).read("out"),
        "default given linux arg p1\n"
    );
    let history = &built.config.history.last().unwrap().created_by;
    assert!(
        history
            .as_ref()
            .unwrap()
            .starts_with("RUN |4 A=default B=given TARGETOS=linux E=arg "),
        "{history:?}"
    );
    assert!(!history.as_ref().unwrap().contains("p1"));
    // A proxy is no reason to run again, an argument is.
    request.build_args.insert("http_proxy".into(), "p2".into());
    assert_eq!(room.run(&request).unwrap().cached, 1);
    request.build_args.insert("B".into(), "other".into());
    assert_eq!(room.run(&request).unwrap().cached, 0);
}

fn passwords() {
    let room = Room::new(&[]);
    let built = |dockerfile: &str| {
        let mut request = room.request(dockerfile);
        let args = [
            ("REPO", "https://user:hush@h/x"),
            ("PLAIN", "https://h/x"),
            ("https_proxy", "http://user:hush@proxy"),
        ];
        let args = args.map(|(name, value)| (name.to_owned(), value.to_owned()));
        request.build_args.extend(args);
        let built = room.run(&request).unwrap();
        let history = serde_json::to_string(&built.config.history).unwrap();
        (history.contains("hush"), room.warnings())
    };
    let (shown, warnings) = built("FROM busybox\nARG REPO PLAIN\nRUN true\nRUN echo\n");
    assert!(shown);
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert!(
        warning.contains(
            "Dockerfile:2:1: ARG REPO PLAIN: the value of the argument REPO has a password"
        ),
        "{warning}"
    );
    assert!(!warning.contains("hush"));
    // What no ARG declares is in no history.
    assert_eq!(built("FROM busybox\nRUN true\n"), (false, Vec::new()));
}

fn onbuild() {
    let room = Room::new(&[("f", "data")]);
    let mut request = room.request("FROM busybox\nONBUILD COPY f /from-child\n");
    request.names = vec!["parent".parse().unwrap()];
    let parent = room.run(&request).unwrap();
    assert!(!room.tree_of(&parent).has("from-child"));
    let child = room.build("FROM parent\nRUN cat /from-child\n").unwrap();
    assert_eq!(room.output(), "data");
    assert_eq!(child.config.config.other.get("OnBuild"), None);
    assert_eq!(child.steps, 3);
}

fn base_image() {
    let room = Room::new(&[]);
    let mut request = room.request("FROM nowhere/to/be:found AS a\nFROM a\nRUN echo hi > /hi\n");
    assert!(room.run(&request).is_err());
    request.base_image = Some("busybox".parse().unwrap());
    let built = room.run(&request).unwrap();
    assert_eq!(room.tree_of(&built).read("hi"), "hi\n");
}

fn epoch() {
    let dockerfile = "FROM busybox\nRUN echo a > /a; mkdir /d; touch /d/x\nCOPY f /f\n";
    let digest = || {
        let room = Room::new(&[("f", "data")]);
        let mut request = room.request(dockerfile);
        request.source_date_epoch = Some(1_600_000_000);
        let built = room.run(&request).unwrap();
        assert_eq!(
            built.config.created.as_deref(),
            Some("2020-09-13T12:26:40Z")
        );
        built.digest
    };
    assert_eq!(digest(), digest());
}
