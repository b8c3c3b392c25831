//! Does the language mean what its guide says, and does it refuse what it should with the place of the mistake?

use proptest::prelude::*;
use serde_json::{Value, json};

use super::examples::EXAMPLES;
use super::*;
use crate::facts::Scalar;

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/filters.md");
const BEGIN: &str = "<!-- examples: begin -->\n";
const END: &str = "<!-- examples: end -->";

fn parse(text: &str) -> Filter {
    Filter::parse(text).unwrap_or_else(|error| panic!("{}", error.render(text)))
}

fn error(text: &str) -> FilterError {
    Filter::parse(text).expect_err(text)
}

fn classes(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| name.to_string()).collect()
}

#[test]
fn every_example_holds() {
    assert!(EXAMPLES.len() >= 40);
    for example in EXAMPLES {
        let facts: Value = serde_json::from_str(example.facts).unwrap();
        let filter = parse(example.filter);
        let (classes, expected) = (classes(example.classes), Ternary::from(example.matches));
        let document = Document::new(&facts, &classes);
        assert_eq!(filter.evaluate(&document), expected, "{example:?}");
        assert_eq!(filter.explain(&document).outcome, expected, "{example:?}");
        assert_eq!(parse(&filter.to_string()), filter, "{example:?}");
    }
}

/// `WRITE_DOCS=1 cargo test -p muster-protocol` brings the guide up to date.
#[test]
fn the_guide_has_the_same_table() {
    let mut table = String::from("| filter | facts | classes | matches | because |\n|---|---|---|---|---|\n");
    for example in EXAMPLES {
        let code = |text: &str| {
            if text.is_empty() { String::new() } else { format!("`{}`", text.replace('|', "\\|")) }
        };
        table += &format!(
            "| {} | {} | {} | {} | {} |\n",
            code(example.filter),
            code(example.facts),
            code(&example.classes.join(" ")),
            if example.matches { "yes" } else { "no" },
            example.why
        );
    }
    let guide = std::fs::read_to_string(GUIDE).unwrap();
    let (before, rest) = guide.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let wanted = format!("{before}{BEGIN}{table}{END}{after}");
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(GUIDE, &wanted).unwrap();
    }
    let guide = std::fs::read_to_string(GUIDE).unwrap();
    assert!(guide == wanted, "docs/filters.md is behind the table; run this test with WRITE_DOCS=1");
}

#[test]
fn canonical_texts() {
    for (text, canonical) in [
        ("a=b", "a = b"),
        ("((a=b))and(c=d and e=f)", "a = b and c = d and e = f"),
        ("a=1 and (b=2 or c=3)", "a = 1 and (b = 2 or c = 3)"),
        ("not(a=1)or not not(b=1 and c=2)", "not a = 1 or not not (b = 1 and c = 2)"),
        ("a in('x' , \"y z\",in)", "a in (x, \"y z\", \"in\")"),
        ("a=/x\\/y/", "a ~ /x\\/y/"),
        ("a!=/x/ and a ~ web and class=/w/", "a !~ /x/ and a ~ /web/ and class ~ /w/"),
        ("a='C:\\temp'", "a = \"C:\\\\temp\""),
        ("a=''", "a = \"\""),
        ("'os'.\"na me\"=1", "os.\"na me\" = 1"),
        ("has\n\tos", "has os"),
    ] {
        let filter = parse(text);
        assert_eq!(filter.to_string(), canonical);
        assert_eq!(parse(canonical), filter);
    }
}

#[test]
fn mistakes_have_a_place_and_a_hint() {
    for (text, column, message, hint) in [
        ("", 1, "empty", "--all"),
        ("   ", 4, "empty", "--all"),
        ("a", 2, "operator", "has a"),
        ("a=", 3, "missing", ""),
        ("a==b", 2, "`==`", "`=`"),
        ("a =~ b", 3, "`=~`", "`~`"),
        ("a=>8", 2, "`=>`", "`>=`"),
        ("a=<8", 2, "`=<`", "`<=`"),
        ("a=b && c=d", 5, "expected", "`and`"),
        ("a=b || c=d", 5, "expected", "`or`"),
        ("a=b AND c=d", 5, "expected", "lower-case"),
        ("NOT a=b", 5, "operator", "`not`"),
        ("a IN (b)", 3, "operator", "`in`"),
        ("!a=b", 1, "`!`", "`not`"),
        ("a=b c=d", 5, "expected", "joined"),
        ("(a=b", 5, "`)` is missing", "column 1"),
        ("a=b)", 4, "closes nothing", ""),
        ("()", 2, "`)`", "missing before"),
        ("a=b and", 8, "expected", ""),
        ("and=b", 1, "`and`", "quotes"),
        ("has class", 5, "`class`", "quotes"),
        ("identity", 9, "operator", "no identity"),
        ("hostname web1", 10, "operator", "no identity"),
        ("class > a", 7, "classes", "quotes"),
        ("class in (a)", 7, "classes", "class = a or"),
        ("class webserver", 7, "operator", ""),
        ("a in b", 6, "`(`", "a in (a, b)"),
        ("a in (b c)", 9, "`,`", ""),
        ("a in (b, /c/)", 10, "regular", "~"),
        ("a < /b/", 3, "`<`", "~"),
        ("a = /b", 5, "not closed", "slash"),
        ("a ~ /b(/", 7, "unclosed group", ""),
        ("a ~ /x\\/y(/", 10, "unclosed group", ""),
        ("a ~ 'b('", 7, "unclosed group", ""),
        ("a = 'b", 5, "not closed", ""),
        ("a = *", 5, "`*`", "quotes"),
        ("os=Deb*", 7, "expected", "quotes"),
        ("a..b=1", 3, "missing", ""),
        ("é=1", 1, "`é`", ""),
        ("\"é\" = é", 7, "`é`", "quotes"),
        ("a = 'b\u{7}'", 7, "control", ""),
        ("a ~ /b\n/", 7, "control", ""),
        ("a ~ /(?=x)/", 6, "look-around", ""),
    ] {
        let error = error(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.message.contains(message), "{text}: {error}");
        assert!(error.hint.clone().unwrap_or_default().contains(hint), "{text}: {error}");
    }
}

#[test]
fn a_mistake_is_drawn() {
    let text = "datacenter=a && class=web";
    let drawn = "datacenter=a && class=web\n             ^\n`and` or `or` is expected here\nhint: write `and`";
    assert_eq!(error(text).render(text), drawn);
    let long = format!("{}x", "a=b and ".repeat(100));
    let rendered = error(&long).render(&long);
    assert_eq!(rendered.lines().nth(1).unwrap().len(), 61, "{rendered}");
}

#[test]
fn limits_hold_and_point_at_the_column() {
    let nested = |depth: usize| format!("{}a=b{}", "(".repeat(depth), ")".repeat(depth));
    parse(&nested(MAX_DEPTH));
    assert_eq!(error(&nested(MAX_DEPTH + 1)).column, MAX_DEPTH + 1);
    parse(&format!("{}a=b", "not ".repeat(MAX_DEPTH)));
    assert_eq!(error(&format!("{}a=b", "not ".repeat(MAX_DEPTH + 1))).column, 4 * MAX_DEPTH + 1);

    let many = |count: usize| vec!["a=b"; count].join(" or ");
    parse(&many(MAX_PREDICATES));
    assert_eq!(error(&many(MAX_PREDICATES + 1)).column, 7 * MAX_PREDICATES + 1);
    let list = |count: usize| format!("a in ({})", vec!["b"; count].join(","));
    parse(&list(MAX_PREDICATES));
    assert_eq!(error(&list(MAX_PREDICATES + 1)).column, 7 + 2 * MAX_PREDICATES);

    let regexes = |count: usize| vec!["a~/b/"; count].join(" or ");
    parse(&regexes(MAX_REGEXES));
    assert_eq!(error(&regexes(MAX_REGEXES + 1)).column, 9 * MAX_REGEXES + 3);

    let long = |bytes: usize| format!("a = {}", "b".repeat(bytes - 4));
    parse(&long(MAX_BYTES));
    assert_eq!(error(&long(MAX_BYTES + 1)).column, MAX_BYTES + 1);
    assert!(error(&format!("a={}", "b".repeat(MAX_BYTES - 2))).message.contains("canonical"));

    for bomb in ["(\\w{100}){100}", "((((a{100}){100}){100}){100})", "\\pL{1000}"] {
        let error = error(&format!("a ~ /{bomb}/"));
        assert_eq!(error.column, 6, "{error}");
    }
    let deep = format!("a ~ /{}x{}/", "(".repeat(64), ")".repeat(64));
    assert!(error(&deep).message.contains("nest"), "{}", error(&deep));
    parse("a ~ /^[\\w.]{10}$/");
}

#[test]
fn shorthands_mean_what_mcollective_meant() {
    for (text, canonical) in [
        ("datacenter=a", "datacenter = a"),
        ("datacenter==a", "datacenter = a"),
        ("datacenter = a b", "datacenter = \"a b\""),
        ("os=/deb/", "os ~ /deb/"),
        ("os=~deb", "os ~ /deb/"),
        ("os =~ /deb/", "os ~ /deb/"),
        ("os!=/deb/", "os !~ /deb/"),
        ("cpu.count>=8", "cpu.count >= 8"),
        ("cpu.count=>8", "cpu.count >= 8"),
        ("cpu.count=<8", "cpu.count <= 8"),
        ("cpu.count<8", "cpu.count < 8"),
        ("mountpoints.\"/var\".size>1", "mountpoints.\"/var\".size > 1"),
        ("path=/var/www/", "path ~ /var\\/www/"),
    ] {
        assert_eq!(shorthand::fact(text).unwrap().to_string(), canonical, "{text}");
    }
    assert_eq!(shorthand::class("webserver").unwrap().to_string(), "class = webserver");
    assert_eq!(shorthand::class("/web/").unwrap().to_string(), "class ~ /web/");
    let with = shorthand::with("datacenter=a /web|db=x/ db cpu.count>=8").unwrap();
    let canonical = "datacenter = a and class ~ /web|db=x/ and class = db and cpu.count >= 8";
    assert_eq!(with.to_string(), canonical);
    let all = shorthand::all([parse("a=1 or b=2"), with]).unwrap().unwrap();
    assert_eq!(all.to_string(), format!("(a = 1 or b = 2) and {canonical}"));
    assert_eq!(shorthand::all([]).unwrap(), None);

    for (text, column) in
        [("", 1), ("a", 2), ("a=", 3), ("a b=1", 3), ("a=/(/", 4), ("a=~(", 4), ("a</x/", 3), ("a=\t\u{1}", 3)]
    {
        assert_eq!(shorthand::fact(text).unwrap_err().column, column, "{text}");
    }
    assert_eq!(shorthand::with("a=1 b=/(/").unwrap_err().column, 8);
    assert_eq!(shorthand::class(" /(/").unwrap_err().column, 3);
    let many = vec![parse("a=/b/"); MAX_REGEXES + 1];
    assert!(shorthand::all(many).is_err());
}

#[test]
fn an_explanation_says_what_was_found() {
    let facts = json!({"os": {"family": "Debian"}, "cpu": {"count": 4}, "tags": (0..10).collect::<Vec<_>>()});
    let classes = classes(&["web"]);
    let filter = parse(
        "os.family > A and (cpu.count >= 8 or not has os) and identity = x and class = db and tags = 3 and broker.name = b",
    );
    let unknown = [PathPattern::parse("broker.**").unwrap()];
    let explanation = filter.explain(&Document::new(&facts, &classes).with_unknown(&unknown));
    let expected = r#"no      all of
  no      os.family > A  (os.family is "Debian"; an order comparison of text is always false)
  no      any of
    no      cpu.count >= 8  (cpu.count is 4)
    no      not
      yes     has os  (os is present, without a value of its own)
  no      identity = x  (identity is missing; there is no identity predicate, and this is an ordinary fact path)
  no      class = db  (the classes are "web")
  yes     tags = 3  (tags is 0, 1, 2, 3, 4, 5, 6, 7 and 2 more)
  unknown broker.name = b  (broker.name is not known here)"#;
    assert_eq!(explanation.to_string(), expected);
    assert_eq!(serde_json::to_value(&explanation).unwrap()["parts"][0]["outcome"], "no");
}

#[test]
fn what_cannot_be_known_decides_nothing() {
    let unknown = [PathPattern::parse("broker.**").unwrap()];
    let (facts, classes) = (json!({"a": "1"}), classes(&[]));
    for (text, expected) in [
        ("broker.name = x", Ternary::Unknown),
        ("not broker.name = x", Ternary::Unknown),
        ("has broker", Ternary::Unknown),
        ("broker.name = x and a = 2", Ternary::No),
        ("a = 2 and broker.name = x", Ternary::No),
        ("broker.name = x or a = 1", Ternary::Yes),
        ("broker.name = x or a = 2", Ternary::Unknown),
    ] {
        let document = Document::new(&facts, &classes).with_unknown(&unknown);
        assert_eq!(parse(text).evaluate(&document), expected, "{text}");
        assert_eq!(parse(text).explain(&document).outcome, expected, "{text}");
    }
}

#[test]
fn paths_and_conjunction() {
    let filter = parse("a=1 or has b.c").and(&parse("class=x and d~/y/"));
    assert_eq!(filter.to_string(), "(a = 1 or has b.c) and class = x and d ~ /y/");
    assert_eq!(filter.paths().map(Path::to_string).collect::<Vec<_>>(), ["a", "b.c", "d"]);
    assert_eq!(filter.predicates().count(), 4);
}

fn ternary() -> impl Strategy<Value = Ternary> {
    prop_oneof![Just(Ternary::Yes), Just(Ternary::No), Just(Ternary::Unknown)]
}

/// Trees as the parser builds them, with names and values that need quotes among them.
fn expr() -> impl Strategy<Value = Expr> {
    let path = prop::collection::vec(prop_oneof!["[a-c]", "and|class|\\PC{0,4}"], 1..3)
        .prop_map(|names| Path::from_segments(names.iter().map(String::as_str)).unwrap());
    let literal = || prop_oneof!["[a-z0-9.]{1,4}", "\\PC{0,6}"].prop_map(Literal::new);
    let regex = || {
        prop_oneof!["[a-z/.]{0,4}", "\\PC{0,4}"].prop_filter_map("a regex", |text| pattern::compile_alone(&text).ok())
    };
    let op =
        prop::sample::select(vec![Op::Equal, Op::NotEqual, Op::Less, Op::LessOrEqual, Op::Greater, Op::GreaterOrEqual]);
    let predicate = prop_oneof![
        path.clone().prop_map(Predicate::Has),
        (path.clone(), op, literal()).prop_map(|(path, op, value)| Predicate::Compare(path, op, value)),
        (path.clone(), prop::collection::vec(literal(), 1..4)).prop_map(|(path, values)| Predicate::In(path, values)),
        (path, any::<bool>(), regex()).prop_map(|(path, negated, pattern)| Predicate::Match { path, negated, pattern }),
        (any::<bool>(), literal()).prop_map(|(negated, name)| Predicate::Class { negated, name }),
        (any::<bool>(), regex()).prop_map(|(negated, pattern)| Predicate::ClassMatch { negated, pattern }),
    ];
    predicate.prop_map(Expr::Predicate).prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::all),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::any),
            inner.prop_map(|inner| Expr::Not(Box::new(inner))),
        ]
    })
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c0-9.]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_parses_to_the_same(expr in expr()) {
        let filter = Filter::from_expr(expr);
        // 16 regular expressions may be exceeded by the generator.
        if filter.predicates().filter(|p| p.pattern().is_some()).count() <= MAX_REGEXES {
            let read = Filter::parse(&filter.to_string());
            prop_assert_eq!(read.as_ref(), Ok(&filter), "{}", filter);
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC*") {
        if let Err(error) = Filter::parse(&text) {
            error.render(&text);
        }
        let _ = (shorthand::fact(&text), shorthand::class(&text), shorthand::with(&text));
    }

    #[test]
    fn nearly_a_filter_never_panics(words in prop::collection::vec(
        prop::sample::select(vec!["a", "b.c", "=", "!=", "~", "<", "in", "(", ")", ",", "/x/", "'q'", "and", "or", "not", "has", "class", "\"", "/", "\\", "é", "."]), 0..20)) {
        for joined in [words.join(" "), words.concat()] {
            match Filter::parse(&joined) {
                Ok(filter) => prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(filter)),
                Err(error) => {
                    prop_assert!(error.column <= joined.chars().count() + 1);
                    error.render(&joined);
                }
            }
        }
    }

    #[test]
    fn shorthands_are_filters_too(text in "[ab. =<>~!/]{1,12}") {
        for filter in [shorthand::fact(&text), shorthand::class(&text), shorthand::with(&text)].into_iter().flatten() {
            prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(filter));
        }
    }

    #[test]
    fn evaluation_is_total_and_explained(facts in json_value(), expr in expr()) {
        let (filter, none) = (Filter::from_expr(expr), BTreeSet::new());
        let document = Document::new(&facts, &none);
        let outcome = filter.evaluate(&document);
        prop_assert_ne!(outcome, Ternary::Unknown, "all is known");
        prop_assert_eq!(filter.explain(&document).outcome, outcome);
        prop_assert_eq!(filter.matches(&facts, &none), outcome == Ternary::Yes);
    }

    #[test]
    fn lookup_agrees_with_the_walk(facts in json_value()) {
        let none = BTreeSet::new();
        let document = Document::new(&facts, &none);
        let mut walked: std::collections::BTreeMap<Path, Vec<Scalar>> = Default::default();
        for (path, leaf) in crate::facts::leaves(&facts) {
            let values = walked.entry(path).or_default();
            if let crate::facts::Leaf::Value(value) = leaf {
                values.push(value.to_owned());
            }
        }
        for (path, values) in walked {
            let Lookup::Found(found) = document.fact(&path) else { panic!("{path} is present") };
            prop_assert_eq!(found.into_iter().map(ScalarRef::to_owned).collect::<Vec<_>>(), values);
        }
    }

    #[test]
    fn kleenes_laws(a in ternary(), b in ternary(), c in ternary()) {
        prop_assert_eq!(a.and(b), b.and(a));
        prop_assert_eq!(a.or(b), b.or(a));
        prop_assert_eq!(a.and(b).and(c), a.and(b.and(c)));
        prop_assert_eq!(a.or(b).or(c), a.or(b.or(c)));
        prop_assert_eq!(a.and(b.or(c)), a.and(b).or(a.and(c)));
        prop_assert_eq!(!a.and(b), (!a).or(!b));
        prop_assert_eq!(!!a, a);
        prop_assert_eq!(a.and(Ternary::Yes), a);
        prop_assert_eq!(a.or(Ternary::No), a);
    }

    #[test]
    fn a_comparison_is_one_of_three(fact in "[0-9]{1,2}([.][0-9]{1,2}){0,2}", value in "[0-9]{1,2}([.][0-9]{1,2}){0,2}") {
        let (facts, none) = (json!({ "v": fact }), BTreeSet::new());
        let holds = |op: &str| parse(&format!("v {op} '{value}'")).matches(&facts, &none);
        prop_assert_eq!([holds("<"), holds("="), holds(">")].iter().filter(|holds| **holds).count(), 1);
        prop_assert_eq!(holds("<="), holds("<") || holds("="));
        prop_assert_eq!(holds("!="), !holds("="));
    }
}
