//! Ten thousand operations as a large company might offer, and queries as people and models write them.
//!
//! Most are verbs × nouns of forty services, made by rule. Those that the queries look for are written by hand.

use hub_protocol::{AccessControl, OperationSpec, OperationType};
use serde_json::{Map, Value, json};

/// How many operations there are.
pub const OPERATIONS: usize = 10_000;

/// What a caller must hold to see them.
pub const SCOPE: &str = "corpus:call";

/// What each query looks for: words, and the one id that should be among the first three.
pub const QUERIES: [(&str, &str); 50] = [
    ("read file contents", "fs.readFile"),
    ("delete a directory", "fs.remove_folder"),
    ("rename file", "fs.move"),
    ("list directories", "fs.list_folder"),
    ("grep", "code.grep"),
    ("find text in source code", "code.grep"),
    ("open a PR", "github.createPullRequest"),
    ("listPullRequests", "github.listPullRequests"),
    ("who changed this line", "git.blame"),
    ("undo commit", "git.revert"),
    ("run shell command", "shell.exec"),
    ("stop a running process", "shell.kill"),
    ("weather forcast", "weather.forecast"),
    ("temperature tomorrow", "weather.forecast"),
    ("translate text to german", "text.translate"),
    ("summarise article", "text.summarize"),
    ("transcribe audio", "audio.transcribe"),
    ("text to speech", "audio.speak"),
    ("send e-mail", "mail.sendMessage"),
    ("download email attachments", "mail.get_attachment"),
    ("schedule a meeting", "calendar.createEvent"),
    ("when is everybody free", "calendar.free_busy"),
    ("slack message", "slack.postMessage"),
    ("resize image", "image.resize"),
    ("thumbnails", "image.resize"),
    ("read text from screenshot", "image.ocr"),
    ("sql query", "database.query"),
    ("backup database", "database.dump"),
    ("schema migrations", "database.migrate"),
    ("restart pod", "k8s.rolloutRestart"),
    ("kubernetes logs", "k8s.podLogs"),
    ("number of replicas", "k8s.scale"),
    ("docker images", "docker.listImages"),
    ("dns lookup", "net.resolve_host"),
    ("certificate expiry", "tls.inspectCertificate"),
    ("screenshot of web page", "browser.screenshot"),
    ("click button", "browser.click"),
    ("fetch url", "web.fetch"),
    ("search the internet", "web.search"),
    ("web.sear", "web.search"),
    ("convert currency", "finance.exchange"),
    ("stock prices", "finance.quote"),
    ("how far is it between two addresses", "maps.directions"),
    ("geocod", "maps.geocode"),
    ("save api token", "vault.putSecret"),
    ("generate a random password", "vault.makePassword"),
    ("vector similarity", "memory.nearest"),
    ("remember a fact", "memory.store"),
    ("fill pdf form", "pdf.fillForm"),
    ("merge pdfs", "pdf.join"),
];

/// All operations, the same ones each time.
#[must_use]
pub fn operations() -> Vec<OperationSpec> {
    let made = OPERATIONS - WRITTEN.len();
    WRITTEN.iter().map(written).chain((0..made).map(generated)).collect()
}

/// Id, description, tags, names of parameters.
type Written = (&'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const WRITTEN: [Written; 61] = [
    ("fs.readFile", "Returns the content of a file as text, whole or some of its lines.", "files", "path from to"),
    ("fs.write_file", "Writes text to a file, which is made if it is not there.", "files", "path content"),
    ("fs.list_folder", "Shows what is in a folder: names, sizes and times of change.", "files", "path recursive"),
    ("fs.remove_folder", "Deletes a folder with all that is in it.", "files", "path"),
    ("fs.move", "Moves a file or gives it another name.", "files rename", "source destination"),
    ("fs.watch", "Tells of each change below a folder as it happens.", "files", "path"),
    ("code.grep", "Finds lines of source code that match a regular expression.", "search ripgrep", "pattern glob"),
    ("code.format", "Formats source code as the project's style asks for.", "lint", "path"),
    ("code.references", "Finds all uses of a symbol.", "lsp", "symbol path"),
    ("git.commit", "Records the staged changes with a message.", "vcs", "message amend"),
    ("git.blame", "Shows for each line of a file who changed it last, and in which commit.", "vcs", "path line"),
    ("git.revert", "Undoes a commit by a new one that takes its changes back.", "vcs", "commit"),
    ("git.createBranch", "Starts a new branch at a commit.", "vcs", "name start"),
    ("github.createPullRequest", "Opens a pull request (PR) that asks to merge one branch into another.", "forge", "base head title body"),
    ("github.listPullRequests", "Pull requests of a repository by state and author.", "forge", "repository state"),
    ("github.mergePullRequest", "Merges a pull request once its checks have passed.", "forge", "number method"),
    ("shell.exec", "Runs a command line in a shell and returns what it prints.", "bash terminal", "command cwd timeout"),
    ("shell.kill", "Ends a running process and its children.", "terminal", "pid signal"),
    ("weather.current", "The weather at a place now.", "", "latitude longitude"),
    ("weather.forecast", "Temperature, rain and wind at a place for the next ten days.", "", "place days"),
    ("text.translate", "Translates a text into another language.", "nlp", "text language"),
    ("text.summarize", "Makes a short version of a long text.", "nlp llm", "text words"),
    ("text.sentiment", "Tells whether a text sounds glad or angry.", "nlp", "text"),
    ("audio.transcribe", "Turns recorded speech into text, with times.", "speech", "audio language"),
    ("audio.speak", "Reads a text aloud: speech synthesis in many voices.", "speech tts", "text voice"),
    ("mail.sendMessage", "Sends an email with copies and attachments.", "smtp", "to cc subject body"),
    ("mail.search", "Finds emails by sender, words or time.", "imap", "query folder"),
    ("mail.get_attachment", "Downloads one attachment of an email.", "imap", "messageId attachmentId"),
    ("calendar.createEvent", "Puts a meeting into the calendar and invites people.", "scheduling", "start end attendees"),
    ("calendar.free_busy", "Shows when a group of people is free or busy.", "scheduling", "attendees from to"),
    ("slack.postMessage", "Posts to a channel or a thread.", "chat", "channel text thread"),
    ("image.resize", "Scales a picture to a width and height, as for a thumbnail.", "picture", "image width height"),
    ("image.ocr", "Recognizes the text in a picture, a scan or a screenshot.", "picture", "image language"),
    ("image.generate", "Paints a picture from a description.", "picture diffusion", "prompt size"),
    ("database.query", "Runs a SQL statement that only reads, and returns rows.", "sql", "statement parameters"),
    ("database.dump", "Writes a backup of a whole database to a file.", "sql", "name file"),
    ("database.migrate", "Applies the pending migrations to the schema.", "sql", "target"),
    ("k8s.rolloutRestart", "Restarts all pods of a deployment one after the other.", "kubernetes", "namespace deployment"),
    ("k8s.podLogs", "Streams what a pod's containers write to their logs.", "kubernetes", "namespace pod since"),
    ("k8s.scale", "Sets how many replicas of a deployment run.", "kubernetes", "namespace deployment replicas"),
    ("docker.listImages", "Container images on this host with their sizes.", "containers", "filter"),
    ("docker.build", "Builds a container image from a Dockerfile.", "containers", "context tag"),
    ("net.resolve_host", "Looks up the addresses of a host name in the DNS.", "network", "host type"),
    ("net.ping", "Measures the round trip to a host.", "network icmp", "host count"),
    ("tls.inspectCertificate", "Shows issuer, names and date of expiry of a server's certificate.", "network", "host port"),
    ("browser.screenshot", "Takes a picture of a web page as a browser shows it.", "puppeteer", "url selector"),
    ("browser.click", "Clicks on an element of the open page, such as a link or a button.", "puppeteer", "selector"),
    ("web.fetch", "Gets a URL and returns the page as Markdown.", "http", "url"),
    ("web.search", "Searches the internet and returns links with excerpts.", "http", "query"),
    ("finance.exchange", "Converts an amount from one currency to another at today's rate.", "money", "amount from to"),
    ("finance.quote", "The last price of a stock or a fund, with its volume.", "money", "symbol"),
    ("maps.directions", "The way between two addresses: distance, duration, turns.", "geo", "from to mode"),
    ("maps.geocode", "Turns an address into coordinates.", "geo", "address"),
    ("vault.putSecret", "Stores an API key, token or other secret, encrypted.", "security", "name value"),
    ("vault.makePassword", "Makes a strong random password.", "security", "length symbols"),
    ("memory.store", "Remembers a fact for later conversations.", "agent", "fact topic"),
    ("memory.nearest", "Finds the stored vectors that are most similar to an embedding.", "agent", "vector limit"),
    ("pdf.extractText", "Returns the text of a PDF page by page.", "documents", "file pages"),
    ("pdf.fillForm", "Fills in the fields of a PDF form.", "documents", "file fields"),
    ("pdf.join", "Merges several PDF files into one.", "documents", "files"),
    ("queue.enqueue", "Puts a job into a queue, to be run by a worker.", "jobs", "queue payload"),
];

const SERVICES: [&str; 40] = [
    "crm",
    "billing",
    "helpdesk",
    "hr",
    "payroll",
    "warehouse",
    "shipping",
    "fleet",
    "booking",
    "hotel",
    "clinic",
    "lab",
    "school",
    "library",
    "legal",
    "insurance",
    "bank",
    "trading",
    "tax",
    "procurement",
    "factory",
    "quality",
    "repairs",
    "energy",
    "telecom",
    "wifi",
    "monitoring",
    "identity",
    "cms",
    "blog",
    "shop",
    "loyalty",
    "surveys",
    "festival",
    "tickets",
    "social",
    "ads",
    "analytics",
    "lake",
    "mlops",
];

const NOUNS: [&str; 61] = [
    "customer",
    "account",
    "contact",
    "invoice",
    "payment",
    "refund",
    "order",
    "product",
    "category",
    "price list",
    "discount",
    "subscription",
    "case",
    "comment",
    "attachment",
    "task",
    "project",
    "milestone",
    "employee",
    "contract",
    "shipment",
    "vehicle",
    "route",
    "driver",
    "reservation",
    "room",
    "guest",
    "patient",
    "appointment",
    "prescription",
    "sample",
    "course",
    "student",
    "grade",
    "policy",
    "claim",
    "transaction",
    "portfolio",
    "supplier",
    "batch",
    "inspection",
    "machine",
    "meter",
    "device",
    "alert",
    "dashboard",
    "report",
    "user",
    "role",
    "group",
    "web page",
    "article",
    "review",
    "campaign",
    "audience",
    "survey",
    "venue",
    "dataset",
    "model",
    "image",
    "email template",
];

/// Verb, its third person, the rest of the sentence, what kind of operation.
#[rustfmt::skip]
const VERBS: [(&str, &str, &str, OperationType); 10] = [
    ("list", "Lists", "page by page, newest first.", OperationType::Query),
    ("get", "Gets", "by its id, with all of its fields.", OperationType::Query),
    ("create", "Creates", "and returns it with its new id.", OperationType::Mutation),
    ("update", "Changes", "in the fields that are given; the others stay as they are.", OperationType::Mutation),
    ("delete", "Deletes", "for good. This cannot be undone.", OperationType::Mutation),
    ("search", "Searches", "by text, status or date.", OperationType::Query),
    ("export", "Exports", "to a file in CSV or JSON format for download.", OperationType::Query),
    ("notify", "Sends an email message about", "to everybody who follows it.", OperationType::Mutation),
    ("schedule", "Schedules a change of", "for a later time or a free slot.", OperationType::Mutation),
    ("archive", "Archives", "so that it is stored but no longer shown.", OperationType::Mutation),
];

/// Nouns per service.
const KINDS: usize = 25;

fn generated(number: usize) -> OperationSpec {
    let (service, rest) = (number % SERVICES.len(), number / SERVICES.len());
    let (verb, verbs, rest_of_it, kind) = VERBS[rest % VERBS.len()];
    // 7 and 61 have no common divisor: no service has a noun twice.
    let noun = NOUNS[(service * 11 + rest / VERBS.len() % KINDS * 7) % NOUNS.len()];
    let service_name = SERVICES[service];
    let (snake, title) = (noun.replace(' ', "_"), format!("{} {noun}", capital(verb)));
    // Services have their own habits.
    let id = match service % 3 {
        0 => format!("{service_name}.{snake}.{verb}"),
        1 => format!("{service_name}.{verb}_{snake}"),
        _ => format!("{service_name}.{verb}{}", noun.split(' ').map(capital).collect::<String>()),
    };
    let about = format!("{verbs} {} {noun} of the {service_name} system {rest_of_it}", article(noun));
    let params = match verb {
        "list" | "search" | "export" => "query status limit cursor".to_owned(),
        "create" => "name description labels".to_owned(),
        "schedule" => format!("{snake}_id at"),
        _ => format!("{snake}_id"),
    };
    spec(&id, &about, service_name, &params, kind, Some(title))
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" }
}

fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_uppercase() + rest
}

fn written((id, about, tags, params): &Written) -> OperationSpec {
    spec(id, about, tags, params, OperationType::Query, None)
}

fn spec(id: &str, about: &str, tags: &str, params: &str, kind: OperationType, title: Option<String>) -> OperationSpec {
    let properties: Map<String, Value> =
        params.split_whitespace().map(|name| (name.to_owned(), json!({ "type": "string" }))).collect();
    OperationSpec {
        name: String::new(),
        namespace: String::new(),
        version: "1.0.0".to_owned(),
        kind,
        title,
        description: about.to_owned(),
        tags: tags.split_whitespace().map(str::to_owned).collect(),
        input_schema: json!({ "type": "object", "properties": properties }),
        output_schema: json!(true),
        error_schemas: Vec::new(),
        access_control: AccessControl::scopes(&[SCOPE]),
        meta: None,
    }
    .with_id(id)
}
