package peers;

import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KafkaStreams.State;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;

/**
 * Positivity by country and hour with Kafka Streams: fills the records topic from a CSV file, counts
 * in two stream threads, collects what they say until every row is accounted for, writes the series.
 *
 * <p>Arguments: data set, output file, bootstrap servers, {@code at_least_once} or {@code
 * exactly_once_v2}.
 */
public final class Positivity {
  /** Of each topic: twice the threads, so that the work spreads. */
  private static final int PARTITIONS = 4;

  public static void main(String[] arguments) throws Exception {
    if (arguments.length != 4) {
      System.err.println("usage: Positivity DATA.csv OUT.csv BOOTSTRAP_SERVERS GUARANTEE");
      System.exit(2);
    }
    var data = Path.of(arguments[0]);
    var out = Path.of(arguments[1]).toAbsolutePath();
    var cluster = arguments[2];
    var guarantee = arguments[3];

    // Topics of this run alone; Streams names its changelog after the application.
    var application = "peers-kafka-streams-" + UUID.randomUUID();
    var records = application + "-records";
    var tallies = application + "-tallies";
    try (var admin = Admin.create(Map.of("bootstrap.servers", cluster))) {
      var one = (short) 1;
      admin
          .createTopics(
              List.of(
                  new NewTopic(records, PARTITIONS, one), new NewTopic(tallies, PARTITIONS, one)))
          .all()
          .get();

      var settings =
          CountingTopology.settings(application, cluster, guarantee, out.resolveSibling("state"));
      var streams = new KafkaStreams(CountingTopology.build(records, tallies), settings);
      // A thread that dies must not leave this process waiting for rows that never come.
      streams.setUncaughtExceptionHandler(
          error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
          });
      streams.start();

      // The collector reads while the file is still being written to the topic.
      var collector = new TallyCollector(cluster, tallies, PARTITIONS);
      var collected = CompletableFuture.supplyAsync(collector::collect);
      collector.expect(RecordsProducer.fill(data, cluster, records));
      var series = collected.get();

      var closed = CompletableFuture.runAsync(streams::close);
      SeriesWriter.write(series, out);
      closed.get();
      if (streams.state() != State.NOT_RUNNING) {
        throw new IllegalStateException("the stream threads ended as " + streams.state());
      }
      remove(admin, application);
    }
  }

  private static void remove(Admin admin, String application) throws Exception {
    Stream<String> own =
        admin.listTopics().names().get().stream().filter(name -> name.startsWith(application));
    admin.deleteTopics(own.toList()).all().get();
  }

  private Positivity() {}
}
