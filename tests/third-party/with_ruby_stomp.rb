# Does Debian's ruby-stomp work with this broker, in all three versions of STOMP, over TLS with a password?
#
# Run by tests/third-party/run, which starts the broker and sets MUSTER_TEST_*.

# ruby-stomp asks this of files; Ruby 3.2 took it away.
File.singleton_class.send(:alias_method, :exists?, :exist?) unless File.respond_to?(:exists?)

require "stomp"
require "timeout"

# Every wait of these tests ends after this many seconds, with a failure.
LIMIT = 15
PASSWORD = File.read(ENV.fetch("MUSTER_TEST_PASSWORD_FILE")).strip

# A test failed; the text says which expectation.
class Unexpected < StandardError; end

def same(expected, found, what)
  raise Unexpected, "#{what}: #{found.inspect}, not #{expected.inspect}" unless expected == found
end

# The library's stderr chatter about connections that the broker is meant to close.
def quietly
  verbose, $VERBOSE = $VERBOSE, nil
  yield
ensure
  $VERBOSE = verbose
end

# One connection of a version, with TLS verified.
class Client
  attr_reader :stomp

  def initialize(version, heart_beat: "0,0", user: "ruby", password: PASSWORD, ca: ENV.fetch("MUSTER_TEST_CA"))
    headers = { "heart-beat" => heart_beat }
    # Without accept-version the broker speaks 1.0.
    headers.merge!("accept-version" => version, "host" => "muster") unless version == "1.0"
    headers = {} if version == "1.0"
    tls = Stomp::SSLParams.new(ts_files: ca, use_ruby_ciphers: true)
    host = { login: user, passcode: password, host: "127.0.0.1", port: ENV.fetch("MUSTER_TEST_PORT").to_i, ssl: tls }
    @stomp = Timeout.timeout(LIMIT) do
      Stomp::Connection.new(hosts: [host], reliable: false, connect_headers: headers, ssl_post_conn_check: true)
    end
    @version = version
  end

  def receive
    quietly { Timeout.timeout(LIMIT) { @stomp.receive } }
  end

  # The next frame, which must be a MESSAGE.
  def message
    frame = receive
    same("MESSAGE", frame&.command, "command of #{frame&.headers}")
    frame
  end

  def receipt(id)
    frame = receive
    same(["RECEIPT", id], [frame&.command, frame&.headers&.[]("receipt-id")], "receipt")
  end

  # Subscribes, and waits until the broker has done so.
  def subscribe(destination, id = "1")
    @stomp.subscribe(destination, { "receipt" => "subscribed-#{id}" }, id)
    receipt("subscribed-#{id}")
  end

  # The code of the ERROR that comes; the broker must close after it.
  def refusal
    frame = receive
    same("ERROR", frame&.command, "command of #{frame&.headers}")
    raise Unexpected, "an ERROR without a text" if frame.headers["message"].to_s.empty?
    same(nil, receive, "after the ERROR")
    frame.headers["muster-code"]
  end

  def leave
    @stomp.disconnect("receipt" => "bye") if @stomp.open?
  end
end

# Waits until the block says true.
def until_true(what)
  Timeout.timeout(LIMIT) { Thread.pass until yield }
rescue Timeout::Error
  raise Unexpected, "never: #{what}"
end

TESTS = {}

def test(name, versions = %w[1.0 1.1 1.2], &block)
  versions.each { |version| TESTS["#{version} #{name}"] = [version, block] }
end

test "the version is agreed" do |version|
  client = Client.new(version)
  same(version, client.stomp.protocol, "version")
  client.leave
end

test "a subscriber gets what is sent" do |version|
  listener, sender = Client.new(version), Client.new(version)
  listener.subscribe("/topic/third.ruby.*")
  sender.stomp.publish("/topic/third.ruby.today", "héllo", { "x-mine" => "kept", "priority" => "7" })
  message = listener.message
  same("héllo", message.body.dup.force_encoding("UTF-8"), "body")
  same("/topic/third.ruby.today", message.headers["destination"], "destination")
  same(%w[kept 7], message.headers.values_at("x-mine", "priority"), "headers")
  [listener, sender].each(&:leave)
end

test "headers arrive as they were meant", %w[1.1 1.2] do |version|
  client = Client.new(version)
  client.subscribe("/topic/third.ruby.headers")
  # Not "\\c": ruby-stomp 1.4.10 itself reads an escaped backslash before a c as a colon.
  text = "a:b\nd\\e"
  client.stomp.publish("/topic/third.ruby.headers", "x", { "x-odd" => text })
  same(text, client.message.headers["x-odd"], "x-odd")
  client.leave
end

test "receipts" do |version|
  client = Client.new(version)
  client.subscribe("/topic/third.ruby.receipts")
  client.stomp.publish("/topic/third.ruby.receipts", "x", { "receipt" => "sent-1" })
  frames = [client.receive, client.receive]
  same(%w[MESSAGE RECEIPT], frames.map(&:command).sort, "frames")
  client.stomp.unsubscribe("/topic/third.ruby.receipts", { "receipt" => "unsubscribed" }, "1")
  client.receipt("unsubscribed")
  client.leave
end

test "bodies may hold NUL" do |version|
  client = Client.new(version)
  client.subscribe("/topic/third.ruby.nul")
  body = "\0before\0\0after\n\0" + (0..255).map(&:chr).join.b * 100
  client.stomp.publish("/topic/third.ruby.nul", body.b)
  same(body.b, client.message.body.b, "body")
  client.leave
end

test "a refused send says denied and ends the connection" do |version|
  ["/topic/elsewhere.ruby", "/topic/readable.ruby"].each do |destination|
    client = Client.new(version)
    client.stomp.publish(destination, "x")
    same("denied", client.refusal, destination)
  end
end

test "a refused subscription says denied and ends the connection" do |version|
  client = Client.new(version)
  client.stomp.subscribe("/topic/>", {}, "1")
  same("denied", client.refusal, "/topic/>")
end

test "request and reply" do |version|
  asker, answerer = Client.new(version), Client.new(version)
  answerer.subscribe("/topic/third.ruby.questions")
  asker.subscribe("/temp-queue/answers")
  headers = { "reply-to" => "/temp-queue/answers", "correlation-id" => "q-1" }
  asker.stomp.publish("/topic/third.ruby.questions", "6 x 9?", headers)
  question = answerer.message
  reply_to = question.headers["reply-to"]
  same("/remote-temp-queue/", reply_to.to_s[0, 19], "reply-to")
  answerer.stomp.publish(reply_to, "42", { "correlation-id" => "q-1" })
  answer = asker.message
  same(%w[42 q-1], [answer.body, answer.headers["correlation-id"]], "answer")
  [asker, answerer].each(&:leave)
end

test "a wrong login says auth-failed" do |version|
  [{ password: "wrong" }, { user: "nobody-ruby-#{version}" }].each do |wrong|
    client = quietly { Client.new(version, **wrong) }
    same("ERROR", client.stomp.connection_frame.command, "answer to #{wrong.keys}")
    same("auth-failed", client.stomp.connection_frame.headers["muster-code"], "answer to #{wrong.keys}")
  rescue Stomp::Error::StompServerError, Stomp::Error::ProtocolErrorConnect => error
    raise Unexpected, "no code in #{error.message}" unless error.message.include?("auth-failed")
  end
end

test "the certificate is verified" do |version|
  begin
    quietly { Client.new(version, ca: ENV.fetch("MUSTER_TEST_OTHER_CA")) }
  rescue OpenSSL::SSL::SSLError
    next
  end
  raise Unexpected, "a certificate of an unknown CA was taken"
end

test "idle with heart-beats stays connected", %w[1.1 1.2] do |version|
  client = Client.new(version, heart_beat: "500,500")
  # The library counts the broker's beats while nobody reads; several of them are more than the broker's patience.
  until_true("5 beats sent, 4 received") { client.stomp.hbsend_count >= 5 && client.stomp.hbrecv_count >= 4 }
  client.subscribe("/topic/third.ruby.idle")
  client.stomp.publish("/topic/third.ruby.idle", "still here")
  same("still here", client.message.body, "body")
  client.leave
end

test "a client that falls silent is closed", %w[1.1 1.2] do |version|
  client = Client.new(version, heart_beat: "500,0")
  # The library's own ticker stops, and nothing else is sent.
  client.stomp.instance_variable_get(:@st).kill
  same("heart-beat", client.refusal, "code")
end

if $PROGRAM_NAME == __FILE__
  failures = TESTS.count do |name, (version, block)|
    Timeout.timeout(4 * LIMIT) { block.call(version) }
    false
  rescue StandardError, Timeout::Error => error
    puts "FAIL #{name}: #{error.class}: #{error.message}"
    puts error.backtrace.first(4).map { |line| "  #{line}" } unless error.is_a?(Unexpected)
    true
  end
  puts "#{TESTS.size - failures} passed, #{failures} failed"
  exit(failures.zero? ? 0 : 1)
end
