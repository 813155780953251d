package peers;

import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.FutureTask;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KafkaStreams.State;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;

/**
 * Positivity by country and hour with Kafka Streams: fills a topic from a CSV file, counts in two
 * stream threads, collects tallies until every row is accounted for, writes the series.
 *
 * <p>Arguments: data set, output file, bootstrap servers, {@code by-job} or {@code by-row}, {@code
 * at_least_once} or {@code exactly_once_v2}.
 */
public final class Positivity {
  /** Of each topic: twice the threads, so that the work spreads. */
  private static final int PARTITIONS = 4;

  private static final Map<String, Formulation> FORMULATIONS =
      Map.of("by-job", new ByJob(), "by-row", new ByRow());

  public static void main(String[] arguments) throws Exception {
    if (arguments.length != 5 || !FORMULATIONS.containsKey(arguments[3])) {
      System.err.println(
          "usage: Positivity DATA.csv OUT.csv BOOTSTRAP_SERVERS by-job|by-row GUARANTEE");
      System.exit(2);
    }
    var data = Path.of(arguments[0]);
    var out = Path.of(arguments[1]).toAbsolutePath();
    var cluster = arguments[2];
    var formulation = FORMULATIONS.get(arguments[3]);
    var guarantee = arguments[4];

    // Topics of this run alone; Streams names its changelog after the application.
    var application = "peers-kafka-streams-" + UUID.randomUUID();
    var records = application + "-records";
    var tallies = application + "-tallies";
    var settings = StreamsSettings.of(application, cluster, guarantee, out.resolveSibling("state"));
    formulation.tune(settings);
    try (var admin = Admin.create(Map.of("bootstrap.servers", cluster))) {
      var one = (short) 1;
      admin
          .createTopics(
              List.of(
                  new NewTopic(records, PARTITIONS, one), new NewTopic(tallies, PARTITIONS, one)))
          .all()
          .get();
      try (var streams = new KafkaStreams(formulation.topology(records, tallies), settings);
          var rows = TestRow.read(data)) {
        // A thread that dies must not leave this process waiting for rows that never come.
        streams.setUncaughtExceptionHandler(
            error -> {
              error.printStackTrace();
              Runtime.getRuntime().halt(1);
              return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
        streams.start();

        // The collector reads while the topic is still being filled.
        var collector = new TallyCollector(cluster, tallies, PARTITIONS);
        var collected = new FutureTask<>(collector::collect);
        start(collected);
        collector.expect(formulation.fill(rows, cluster, records));
        var series = collected.get();

        // The stream threads end while the series is written; the second call waits for that.
        start(streams::close);
        SeriesWriter.write(series, out);
        streams.close();
        if (streams.state() != State.NOT_RUNNING) {
          throw new IllegalStateException("the stream threads ended as " + streams.state());
        }
      }
      remove(admin, application);
    }
  }

  /** In a thread that does not keep this process alive when another one has failed. */
  private static void start(Runnable task) {
    var thread = new Thread(task);
    thread.setDaemon(true);
    thread.start();
  }

  private static void remove(Admin admin, String application) throws Exception {
    Stream<String> own =
        admin.listTopics().names().get().stream().filter(name -> name.startsWith(application));
    admin.deleteTopics(own.toList()).all().get();
  }

  private Positivity() {}
}
