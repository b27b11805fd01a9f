use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Node, String> {
    parse_yaml("deploy.yaml", text).map_err(|error| error.to_string())
}

#[test]
fn values_know_their_lines() {
    let text = "# a comment\nstages:\n  - stage_id: 0\n    devices: \"0\"\n  - {stage_id: 1}\n";
    let document = parse(text).unwrap().into_document("a mapping").unwrap();
    let stages = document.get("stages").unwrap();
    assert_eq!(stages.source.to_string(), "deploy.yaml:2");
    let items = stages.list().unwrap();
    let Value::Mapping(first) = &items[0].value else { panic!("{items:?}") };
    let devices = first.get("devices").unwrap();
    assert_eq!(devices.source.to_string(), "deploy.yaml:4");
    assert_eq!(devices.text().unwrap(), "0");
    assert_eq!(items[1].source.to_string(), "deploy.yaml:5");
}

#[test]
fn an_alias_stands_for_what_its_anchor_marks() {
    let document = parse("a: &x {b: 1}\nc: *x\n").unwrap().into_document("a mapping").unwrap();
    let value = |key: &str| document.get(key).unwrap().node.value.to_json();
    assert_eq!(value("c"), value("a"));
}

#[test]
fn what_is_not_taken_is_said_with_its_line() {
    for (text, expected) in [
        (
            "a: 1\nb: 2\na: 3\n",
            "deploy.yaml:3: key \"a\" stands here for the second time; the first is at deploy.yaml:1",
        ),
        ("a: 1\n<<: {b: 2}\n", "deploy.yaml:2: merge keys"),
        ("a: !!str 1\n", "deploy.yaml:1: tags"),
        ("a: 1\n---\nb: 2\n", "deploy.yaml:2: a second document"),
        ("? [a, b]\n: 1\n", "deploy.yaml:1: a key must be"),
        ("a:\n  - b\n c: [\n", "deploy.yaml:3: this is not valid YAML: "),
        ("a: &x [*x]\n", "deploy.yaml:1: an alias must"),
    ] {
        let message = parse(text).unwrap_err();
        assert!(message.starts_with(expected), "{text:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message:?}");
    }
}

#[test]
fn an_empty_text_has_no_value() {
    for text in ["", "\n", "# nothing\n", "---\n", "~\n"] {
        assert_eq!(parse(text).unwrap().value, Value::Null, "{text:?}");
    }
}

#[test]
fn aliases_of_aliases_and_deep_nesting_are_bounded() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("a{level}: &a{level} [{below}]\n");
    }
    assert!(parse(&text).unwrap_err().contains("more than 10000 values"));
    for deep in [100, 10_000] {
        assert!(parse(&"[".repeat(deep)).unwrap_err().starts_with("deploy.yaml:1: "));
        let mapping: String = (0..deep).map(|depth| format!("{}a:\n", " ".repeat(depth.min(300)))).collect();
        assert!(parse(&mapping).is_err());
    }
    for sign in [
        "[", "{", "- ", "? ", "a: ", "&a ", "*a ", "!", "'", "\"", "#", "|", "- \n", "a\n", "\n", "[],",
        "a: b\n",
    ] {
        let _ = parse(&sign.repeat(LONGEST / sign.len()));
    }
    assert!(parse(&"x".repeat(LONGEST + 1)).unwrap_err().contains("longer than 1 MiB"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*|(\\PC|[\\n\\t\\r :,&*!|>'\"%@`{}\\[\\]?-]){0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_text_of_yamls_own_signs_makes_it_panic(
        text in proptest::collection::vec(
            prop_oneof![
                Just("a: "), Just("- "), Just("\n"), Just("  "), Just("\t"), Just("&x "), Just("*x"), Just("!t "), Just("? "),
                Just("{"), Just("}"), Just("["), Just("]"), Just(","), Just(":"), Just("|"), Just(">-"), Just("'"), Just("\""),
                Just("\\"), Just("\\u00"), Just("#"), Just("---"), Just("..."), Just("%YAML 1.2"), Just("\u{feff}"), Just("<<"),
                Just("é"), Just("1"), Just("~"), Just("\r"),
            ],
            0..60,
        )
    ) {
        let _ = parse(&text.concat());
    }
}
