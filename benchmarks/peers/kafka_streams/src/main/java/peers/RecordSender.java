package peers;

import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Sends records, keyed by group, to one topic, from any thread. Closing it waits until the broker
 * has acknowledged all of them, and fails if it did not.
 */
final class RecordSender<V> implements AutoCloseable {
  private final String topic;
  private final KafkaProducer<String, V> producer;
  private final AtomicReference<Exception> failure = new AtomicReference<>();

  RecordSender(String cluster, String topic, Serializer<V> serializer) {
    Map<String, Object> settings =
        Map.of(
            ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, cluster,
            ProducerConfig.ACKS_CONFIG, "all",
            ProducerConfig.LINGER_MS_CONFIG, 20,
            ProducerConfig.BATCH_SIZE_CONFIG, 512 * 1024,
            ProducerConfig.BUFFER_MEMORY_CONFIG, 128L * 1024 * 1024);
    this.topic = topic;
    this.producer = new KafkaProducer<>(settings, new StringSerializer(), serializer);
  }

  void send(String group, V value) {
    producer.send(
        new ProducerRecord<>(topic, group, value),
        (metadata, error) -> {
          if (error != null) {
            failure.compareAndSet(null, error);
          }
        });
  }

  @Override
  public void close() {
    producer.close();
    if (failure.get() != null) {
      throw new IllegalStateException("not every record was acknowledged", failure.get());
    }
  }
}
