# Does ruby-stomp at one broker talk with stomp.py at another, over topics and reply queues, both ways?
#
# Run by tests/third-party/run beside between_brokers.py, which does the same at the other broker and says more about it.

require_relative "with_ruby_stomp"

QUESTIONS = 20
OURS, THEIRS = "/topic/third.mesh.to-ruby", "/topic/third.mesh.to-python"
BODY = "h\xC3\xA9llo \0 from ruby, number %d".b

# One end of the conversation.
class Side
  attr_reader :answers, :they_are_done

  def initialize(version)
    @client = Client.new(version)
    @client.subscribe(OURS, "questions")
    @client.subscribe("/temp-queue/answers", "answers")
    @answers = []
    @they_are_done = false
  end

  def ask(number)
    headers = { "x-kind" => "question", "reply-to" => "/temp-queue/answers", "correlation-id" => "ruby-#{number}" }
    @client.stomp.publish(THEIRS, format(BODY, number), headers)
  end

  def done
    @client.stomp.publish(THEIRS, "done", { "x-kind" => "done" })
  end

  # Deals with what has come; waits a moment if nothing has.
  def hear
    message = @client.stomp.poll
    return IO.select(nil, nil, nil, 0.05) if message.nil?
    raise Unexpected, "#{message.command}: #{message.headers}" unless message.command == "MESSAGE"
    kind, correlation = message.headers.values_at("x-kind", "correlation-id")
    case kind
    when "question"
      headers = { "x-kind" => "answer", "correlation-id" => correlation }
      @client.stomp.publish(message.headers["reply-to"], message.body.b + " back".b, headers)
    when "answer" then @answers << [correlation, message.body.b]
    else @they_are_done = true
    end
  end

  def leave
    @client.leave
  end
end

def main(version)
  side = Side.new(version)
  # Until the brokers have told each other who listens, nobody hears us.
  until side.answers.any?
    side.ask(0)
    4.times { side.hear }
  end
  (1..QUESTIONS).each { |number| side.ask(number) }
  counted = -> { side.answers.reject { |correlation, _| correlation == "ruby-0" } }
  side.hear until counted.call.size >= QUESTIONS
  side.done
  side.hear until side.they_are_done
  expected = (1..QUESTIONS).map { |number| ["ruby-#{number}", format(BODY, number) + " back".b] }
  same(expected.sort, counted.call.sort, "answers")
  side.leave
  puts "ruby-stomp: #{QUESTIONS} questions to the other broker, each answered once"
end

Timeout.timeout(4 * LIMIT) { main(ARGV.fetch(0)) }
