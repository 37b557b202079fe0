//! Clients, from their first byte to their last.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sequence;

use std::path::Path;

use sequence::{Pipe, commands, lines, talk};
use serde_json::{Value, json};
use strata_qmp::{Client, Event, Gone, MAX_DEPTH, MAX_QUEUE, NoArguments};

const NEGOTIATE: &str = r#"{"execute":"qmp_capabilities"}"#;

/// The answers to what follows the negotiation.
fn after_negotiation(input: &str) -> Vec<Value> {
    let mut answers = talk(format!("{NEGOTIATE}{input}").as_bytes(), usize::MAX);
    assert_eq!(answers[1], json!({ "return": {} }));
    answers.split_off(2)
}

/// The class of an error, and what it says.
fn error(answer: &Value) -> (&str, &str) {
    let text = |key: &str| answer["error"][key].as_str().unwrap();
    (text("class"), text("desc"))
}

#[test]
fn a_client_is_greeted_and_negotiates_first() {
    let answers = talk(
        br#"{"execute":"count","id":7} {"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}
            {"execute":"qmp_capabilities","arguments":{"enable":[]},"id":"x"}
            {"execute":"qmp_capabilities"} {"execute":"count"}"#,
        usize::MAX,
    );
    assert_eq!(
        answers[0],
        json!({ "QMP": { "version": { "qemu": { "major": 1, "minor": 2, "micro": 3 },
                                      "package": "test" },
                         "capabilities": [] } })
    );
    assert_eq!(error(&answers[1]).0, "CommandNotFound");
    assert_eq!(answers[1]["id"], 7);
    assert_eq!(error(&answers[2]).0, "GenericError");
    assert_eq!(answers[3], json!({ "return": {}, "id": "x" }));
    assert_eq!(error(&answers[4]).0, "CommandNotFound");
    assert_eq!(
        answers[5],
        json!({ "return": { "count": 1 } }),
        "it ran once"
    );
}

#[test]
fn whatever_the_id_is_it_comes_back() {
    for id in ["null", "1", "[{}]", r#""a\u0000""#, r#"{"a":{"b":2.5}}"#] {
        for command in ["count", "fail", "missing"] {
            let answers = after_negotiation(&format!(r#"{{"id":{id},"execute":"{command}"}}"#));
            let id: Value = serde_json::from_str(id).unwrap();
            assert_eq!(answers[0].get("id"), Some(&id), "{command}");
        }
    }
}

#[test]
fn commands_answer_what_they_return() {
    let answers = after_negotiation(
        r#"{"execute":"nothing"}{"execute":"echo","arguments":{"a":[1]}}{"execute":"fail"}"#,
    );
    assert_eq!(answers[0], json!({ "return": {} }));
    assert_eq!(answers[1], json!({ "return": { "a": [1] } }));
    assert_eq!(
        error(&answers[2]),
        ("DeviceNotFound", "Device 'x' not found")
    );
    let answers = after_negotiation(r#"{"execute":"query-version"}{"execute":"query-commands"}"#);
    assert_eq!(answers[0]["return"]["package"], "test");
    let names = answers[1]["return"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "count",
            "echo",
            "fail",
            "nothing",
            "qmp_capabilities",
            "query-commands",
            "query-version"
        ]
    );
}

#[test]
fn what_is_wrong_is_said_and_the_client_stays() {
    let too_deep = "[".repeat(MAX_DEPTH + 1) + &"]".repeat(MAX_DEPTH + 1);
    for (input, class, needle) in [
        ("[]", "GenericError", "must be a JSON object"),
        ("{}", "GenericError", "lacks member 'execute'"),
        (r#"{"execute":1}"#, "GenericError", "must be a string"),
        (
            r#"{"execute":"count","arguments":[]}"#,
            "GenericError",
            "must be an object",
        ),
        (
            r#"{"execute":"count","extra":1}"#,
            "GenericError",
            "'extra' is unexpected",
        ),
        (
            r#"{"exec-oob":"count"}"#,
            "GenericError",
            "lacks member 'execute'",
        ),
        (
            r#"{"execute":"count","arguments":{"x":1}}"#,
            "GenericError",
            "unknown field `x`",
        ),
        (
            r#"{"execute":"query-version","arguments":{"x":1}}"#,
            "GenericError",
            "'x'",
        ),
        (r#"{"execute":"missing"}"#, "CommandNotFound", "missing"),
        (r#"{"execute" "count"}"#, "GenericError", "JSON parse error"),
        (r#"{"a":"\ud800"}"#, "GenericError", "JSON parse error"),
        ("{]", "GenericError", "JSON parse error"),
        ("count", "GenericError", "JSON parse error"),
        (&too_deep, "GenericError", "levels deep"),
    ] {
        let answers = after_negotiation(&format!("{input}\n{{'execute':'nothing'}}"));
        let (found, said) = error(&answers[0]);
        assert!(found == class && said.contains(needle), "{input}: {said}");
        assert_eq!(answers[1..], [json!({ "return": {} })], "{input}");
    }
}

#[test]
fn events_come_after_the_negotiation_and_between_answers() {
    let (commands, mut count) = (commands(), 0);
    let pipe = Pipe::new(b"", usize::MAX, usize::MAX);
    let mut client = Client::new(pipe.clone(), &commands);
    let event = Event::now("STOP", Value::Null).line();
    client.tell(&event).unwrap();
    client.serve(&commands, &mut count).unwrap();
    pipe.with(|ends| ends.input.extend(NEGOTIATE.bytes()));
    client.serve(&commands, &mut count).unwrap();
    client.tell(&event).unwrap();
    let sent = pipe.with(|ends| lines(&ends.output));
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[2]["event"], "STOP");
}

#[test]
fn a_client_that_reads_nothing_is_held_up_and_in_the_end_dropped() {
    let (commands, mut count) = (commands(), 0_u64);
    let mut input = NEGOTIATE.as_bytes().to_vec();
    input.extend(br#"{"execute":"count"}"#.repeat(100_000));
    let pipe = Pipe::new(&input, usize::MAX, 0);
    let mut client = Client::new(pipe.clone(), &commands);
    loop {
        let wants = client.serve(&commands, &mut count).unwrap();
        if !wants.read {
            assert!(wants.write);
            break;
        }
    }
    let before = count;
    client.serve(&commands, &mut count).unwrap();
    assert_eq!(count, before, "commands wait for the answers before them");
    assert!(count < 10_000);

    let event = Event::now("NEWS", json!({ "text": "x".repeat(10_000) })).line();
    let told = (0..).take_while(|_| client.tell(&event).is_ok()).count();
    assert!((50..=MAX_QUEUE / 10_000).contains(&told), "{told} events");
    assert!(matches!(client.tell(&event), Err(Gone::DoesNotRead)));
}

#[test]
fn a_client_that_reads_much_at_once_gets_every_answer() {
    let commands = commands().with("long", |count: &mut u64, _: NoArguments| {
        *count += 1;
        Ok("x".repeat(10_000))
    });
    let mut count = 0;
    // All of it is read at once, and its answers are far more than may wait.
    let input = NEGOTIATE.to_owned() + &r#"{"execute":"long"}"#.repeat(200);
    let pipe = Pipe::new(input.as_bytes(), usize::MAX, usize::MAX);
    let mut client = Client::new(pipe, &commands);
    client.serve(&commands, &mut count).unwrap();
    assert_eq!(count, 200, "nothing more would come to wake the server");
}

#[test]
fn clients_do_not_know_of_each_other() {
    let (commands, mut count) = (commands(), 0);
    let pipes = [(); 2].map(|()| Pipe::new(NEGOTIATE.as_bytes(), 5, usize::MAX));
    let mut clients = pipes.clone().map(|pipe| Client::new(pipe, &commands));
    for _ in 0..3 {
        for (pipe, client) in pipes.iter().zip(&mut clients) {
            client.serve(&commands, &mut count).unwrap();
            pipe.with(|ends| ends.input.extend(br#"{"execute":"count"}"#));
        }
    }
    let sent = pipes.map(|pipe| pipe.with(|ends| lines(&ends.output)));
    assert_eq!(
        sent[0][2..],
        [json!({"return":{"count":1}}), json!({"return":{"count":3}})]
    );
    assert_eq!(
        sent[1][2..],
        [json!({"return":{"count":2}}), json!({"return":{"count":4}})]
    );
}

#[test]
fn stored_inputs_are_replayed() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut replayed = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        sequence::run(&std::fs::read(entry.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed >= 8, "the corpus is missing");
}
