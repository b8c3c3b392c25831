//! Which nodes does each construct of the language match? The table that evaluator, index and documentation share.

/// One filter beside one node.
#[derive(Debug, Clone, Copy)]
pub struct Example {
    /// The filter.
    pub filter: &'static str,
    /// The node's facts, JSON.
    pub facts: &'static str,
    /// The node's classes.
    pub classes: &'static [&'static str],
    /// Whether the node matches; everything is known here, so the answer is never "unknown".
    pub matches: bool,
    /// The rule that it shows.
    pub why: &'static str,
}

const fn yes(
    filter: &'static str,
    facts: &'static str,
    classes: &'static [&'static str],
    why: &'static str,
) -> Example {
    Example { filter, facts, classes, matches: true, why }
}

const fn no(filter: &'static str, facts: &'static str, classes: &'static [&'static str], why: &'static str) -> Example {
    Example { filter, facts, classes, matches: false, why }
}

/// The table, in the order of the guide.
pub const EXAMPLES: &[Example] = &[
    yes("datacenter = a", r#"{"datacenter":"a"}"#, &[], "equal text"),
    no("datacenter = A", r#"{"datacenter":"a"}"#, &[], "text is case-sensitive"),
    yes(
        "datacenter = a and class ~ webserver and customer = acmeinc",
        r#"{"datacenter":"a","customer":"acmeinc"}"#,
        &["nginx-webserver"],
        "all three hold",
    ),
    yes("datacenter = b or datacenter = a", r#"{"datacenter":"a"}"#, &[], "one of them holds"),
    yes(
        "datacenter = a or customer = x and customer = y",
        r#"{"datacenter":"a"}"#,
        &[],
        "`and` binds tighter than `or`",
    ),
    no("(datacenter = a or customer = x) and customer = y", r#"{"datacenter":"a"}"#, &[], "parentheses change that"),
    yes("datacenter in (a, b)", r#"{"datacenter":"b"}"#, &[], "one of the values is equal"),
    no("datacenter in (a, b)", "{}", &[], "a missing fact is in no list"),
    yes("datacenter != a", r#"{"datacenter":"b"}"#, &[], "present, and different"),
    no("datacenter != a", "{}", &[], "a missing fact makes every predicate false, `!=` included"),
    yes("not datacenter = a", "{}", &[], "`not` is plain negation: also true where the fact is missing"),
    no("datacenter != a", r#"{"datacenter":null}"#, &[], "null is missing"),
    no("has datacenter", r#"{"datacenter":null}"#, &[], "null is missing"),
    yes("has os", r#"{"os":{"family":"Debian"}}"#, &[], "an object is present"),
    yes("has os.family", r#"{"os":{"family":"Debian"}}"#, &[], "so is its member"),
    yes("not has os.family", r#"{"os":{}}"#, &[], "the object is there, the member is not"),
    no("os = Debian", r#"{"os":{"family":"Debian"}}"#, &[], "an object has no value of its own"),
    yes("cpu.count >= 8", r#"{"cpu":{"count":16}}"#, &[], "a JSON number compares as a number"),
    yes("cpu.count = 8.0", r#"{"cpu":{"count":8}}"#, &[], "8 and 8.0 are the same number"),
    no("cpu.count > many", r#"{"cpu":{"count":8}}"#, &[], "a number is neither above nor below a word"),
    yes("cpu.count != many", r#"{"cpu":{"count":8}}"#, &[], "but it is different from it"),
    yes("load < 0.5", r#"{"load":0.25}"#, &[], "fractions too"),
    yes("rack < 10", r#"{"rack":"9"}"#, &[], "both sides are integers: as numbers, though the fact is text"),
    yes("rack = 7", r#"{"rack":"007"}"#, &[], "both sides are integers: leading zeros count for nothing"),
    no("os.release >= 7.10.2", r#"{"os":{"release":"7.9"}}"#, &[], "a dot makes it a version: 9 is below 10"),
    yes("os.release >= 7.9", r#"{"os":{"release":"7.10.2"}}"#, &[], "a dot makes it a version"),
    yes("os.release > 11", r#"{"os":{"release":"12.4"}}"#, &[], "one side with a dot is enough"),
    no(
        "os.release = 7.10",
        r#"{"os":{"release":"7.10.2"}}"#,
        &[],
        "another version; for the series write `~ /^7[.]10/`",
    ),
    yes("kernel < 5.10.0-100", r#"{"kernel":"5.10.0-23-amd64"}"#, &[], "versions compare piece by piece"),
    no("os.family > Alpine", r#"{"os":{"family":"Debian"}}"#, &[], "an order comparison of text is always false"),
    no("os.family <= Debian", r#"{"os":{"family":"Debian"}}"#, &[], "even where the texts are equal"),
    yes("virtual = true", r#"{"virtual":true}"#, &[], "booleans compare with the words true and false"),
    no("virtual = yes", r#"{"virtual":true}"#, &[], "and with no others"),
    yes("os.name ~ /deb/", r#"{"os":{"name":"my-debian"}}"#, &[], "regular expressions are not anchored"),
    no("os.name ~ /^deb/", r#"{"os":{"name":"my-debian"}}"#, &[], "unless they say so"),
    no("os.name ~ /DEB/", r#"{"os":{"name":"my-debian"}}"#, &[], "and case-sensitive"),
    yes("os.name ~ /(?i)DEB/", r#"{"os":{"name":"my-debian"}}"#, &[], "unless they say so"),
    yes("os.name = /deb/", r#"{"os":{"name":"my-debian"}}"#, &[], "`= /…/` means `~`"),
    no("os.name !~ /deb/", r#"{"os":{"name":"my-debian"}}"#, &[], "the expression matches"),
    no("os.name !~ /deb/", "{}", &[], "missing"),
    yes("cpu.count ~ /^1/", r#"{"cpu":{"count":16}}"#, &[], "a number is matched in its text form"),
    yes("roles = db", r#"{"roles":["web","db"]}"#, &[], "a list matches if any element does"),
    no("roles != db", r#"{"roles":["web","db"]}"#, &[], "`!=` on a list: no element is equal"),
    yes("roles != cache", r#"{"roles":["web","db"]}"#, &[], "present, and no element is equal"),
    no("roles !~ /^d/", r#"{"roles":["web","db"]}"#, &[], "`!~` on a list: no element matches"),
    yes("roles != db", r#"{"roles":[]}"#, &[], "an empty list is present, and no element is equal"),
    yes("disks.name = sdb", r#"{"disks":[{"name":"sda"},{"name":"sdb"}]}"#, &[], "paths walk through lists"),
    yes(
        "disks.size > 100 and disks.name = sda",
        r#"{"disks":[{"name":"sda","size":50},{"name":"sdb","size":200}]}"#,
        &[],
        "each predicate looks at the list by itself",
    ),
    yes(
        r#"mountpoints."/var".size > 10"#,
        r#"{"mountpoints":{"/var":{"size":20}}}"#,
        &[],
        "a name with other characters is quoted",
    ),
    yes("customer = 'Acme & Sons'", r#"{"customer":"Acme & Sons"}"#, &[], "and so is a value"),
    yes("class = webserver", "{}", &["webserver", "db"], "the node has the class"),
    no("class = web", "{}", &["webserver"], "a class is compared whole"),
    yes("class ~ /^web/", "{}", &["webserver", "db"], "some class matches"),
    yes("class != db", "{}", &[], "a node without classes does not have this one"),
    no("class !~ /^db/", "{}", &["db-master", "web"], "some class matches"),
    yes("not class = db", "{}", &["web"], "the same as `class != db`"),
    yes(r#""class" = a"#, r#"{"class":"a"}"#, &[], "a fact that is named like a keyword is quoted"),
    no("identity = web1", "{}", &[], "there is no identity predicate: this is an ordinary fact path"),
    yes("not (datacenter = a and class = web)", r#"{"datacenter":"a"}"#, &[], "one of them fails"),
];
