package peers;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.BooleanSerializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Fills the records topic: a record for each row, keyed by its group, whether it is positive. */
final class RecordsProducer {
  private static final int HOUR = "2020-03-01T00".length();

  /** Sends every row and returns how many there are, when the broker has acknowledged all. */
  static long fill(Path data, String cluster, String topic) throws IOException {
    Map<String, Object> settings =
        Map.of(
            ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, cluster,
            ProducerConfig.ACKS_CONFIG, "all",
            ProducerConfig.LINGER_MS_CONFIG, 20,
            ProducerConfig.BATCH_SIZE_CONFIG, 512 * 1024,
            ProducerConfig.BUFFER_MEMORY_CONFIG, 128L * 1024 * 1024,
            ProducerConfig.COMPRESSION_TYPE_CONFIG, "lz4");
    var failure = new AtomicReference<Exception>();
    long rows = 0;
    try (var input =
            new BufferedReader(
                new InputStreamReader(Files.newInputStream(data), StandardCharsets.UTF_8), 1 << 20);
        var producer =
            new KafkaProducer<>(settings, new StringSerializer(), new BooleanSerializer())) {
      var header = Arrays.asList(fields(input.readLine()));
      int country = header.indexOf("country");
      int date = header.indexOf("test_date");
      int result = header.indexOf("result");
      for (String line; (line = input.readLine()) != null; rows++) {
        var row = fields(line);
        var key = row[country] + ',' + row[date].substring(0, HOUR);
        producer.send(
            new ProducerRecord<>(topic, key, row[result].equals("positive")),
            (metadata, error) -> {
              if (error != null) {
                failure.compareAndSet(null, error);
              }
            });
      }
      producer.flush();
    }
    if (failure.get() != null) {
      throw new IOException("not every row was acknowledged", failure.get());
    }
    return rows;
  }

  /** The fields of a line. Quoted ones are rare, so they have a way of their own. */
  private static String[] fields(String line) {
    return line.indexOf('"') < 0 ? line.split(",", -1) : quotedFields(line);
  }

  private static String[] quotedFields(String line) {
    List<String> fields = new ArrayList<>();
    var field = new StringBuilder();
    boolean quoted = false;
    for (int at = 0; at < line.length(); at++) {
      char character = line.charAt(at);
      if (character == '"') {
        if (quoted && at + 1 < line.length() && line.charAt(at + 1) == '"') {
          field.append('"');
          at++;
        } else {
          quoted = !quoted;
        }
      } else if (character == ',' && !quoted) {
        fields.add(field.toString());
        field.setLength(0);
      } else {
        field.append(character);
      }
    }
    fields.add(field.toString());
    return fields.toArray(String[]::new);
  }

  private RecordsProducer() {}
}
